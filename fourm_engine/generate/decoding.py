"""From the sampler's tokens to the values of a modality."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fourm_engine.generate.parallel import Filled
from fourm_engine.generate.result import Generated
from fourm_engine.generate.sample import Sample, continued
from fourm_plugins import calls
from fourm_plugins.modality import Modality
from fourm_plugins.tokenizer import Tokenizer


def decoded(
    modality: Modality, tokenizer: Tokenizer, filled: Sequence[Filled], samples: Sequence[Sample]
) -> list[Generated]:
    """Decode the tokens of one stage. The kept part of an edit, and the beginning of a text, stay exactly as given."""
    expected = filled[0].probabilities is not None  # within a stage, all samples have them or none
    if expected:
        arrays = [calls.decode_expected(tokenizer, f.probabilities[None])[0] for f in filled]  # type: ignore[index]
    else:
        arrays = calls.decode(tokenizer, [f.ids for f in filled])
    results = []
    for f, array, sample in zip(filled, arrays, samples, strict=True):
        value, kept = _value(modality, tokenizer, f, array), sample.kept.get(modality.name)
        pixels = None if kept is None else kept.pixels
        if kept is not None and pixels is not None:
            value = calls.compose(modality, kept.value, value, pixels)
        elif kept is not None and isinstance(value, str):
            known = calls.decode(tokenizer, [sample.known[modality.name].ids])[0]
            beginning = calls.denormalise(modality, known)
            value = continued(kept.value, beginning, value)
        results.append(Generated(modality, f.ids, value, "probabilities" if expected else "tokens", pixels))
    return results


def _value(modality: Modality, tokenizer: Tokenizer, filled: Filled, array: Any) -> Any:
    scored = type(modality).denormalise_scored is not Modality.denormalise_scored
    if filled.confidence is None or not scored:
        return calls.denormalise(modality, array)
    tokens = calls.decode(tokenizer, list(filled.ids[:, None]))
    return calls.denormalise_scored(modality, array, list(zip(tokens, filled.confidence.tolist(), strict=True)))

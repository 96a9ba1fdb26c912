"""BatchMasker: masks and packs a batch of loaded samples, given their budgets.

A sample's result depends only on its contents, budgets and generator, not on the rest of the batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fourm_engine.batch import PackedSample
from fourm_engine.masking.budgets import Drawn
from fourm_engine.masking.grid import GridMasker, mask_grids
from fourm_engine.masking.noise import keys_of, noise
from fourm_engine.masking.pack import pack_rows
from fourm_engine.masking.rows import MaskedRows
from fourm_engine.masking.span import SpanMasker, mask_sequences
from fourm_engine.vocabulary import Vocabulary
from fourm_plugins.discovery import PluginError
from fourm_plugins.masker import MASK, Masked, Masker, SpecialTokens

_REMEDY = "repair or upgrade its package, or choose another masker"


@dataclass(frozen=True)
class Unmasked:
    """One sample before masking."""

    contents: Mapping[str, np.ndarray]  # modality -> what a store loads; includes `drawn.modalities`
    drawn: Drawn
    rng: np.random.Generator  # its state after the budgets were drawn


class BatchMasker:
    """Masks with `maskers` (modality -> masker) and packs rows of `vocabulary`. The engine's maskers mask all samples
    at once; others are called for each sample."""

    def __init__(self, maskers: Mapping[str, Masker], vocabulary: Vocabulary) -> None:
        self.maskers, self.vocabulary = dict(maskers), vocabulary
        self._index = {entry.name: entry.index for entry in vocabulary}
        self._grids = {name for name, masker in maskers.items() if type(masker) is GridMasker}
        first: dict[SpecialTokens | None, str] = {}
        # Exactly this class: a subclass may override `mask`. Sequences of one tokenizer are masked together.
        spans = {name: masker for name, masker in maskers.items() if isinstance(masker, SpanMasker)}
        self._sequences = {name: masker for name, masker in spans.items() if type(masker) is SpanMasker}
        self._spans = {name: first.setdefault(masker.special_tokens, name) for name, masker in self._sequences.items()}

    def __call__(self, samples: Sequence[Unmasked]) -> list[PackedSample]:
        """Raises ValueError for a masker that exceeds its budgets."""
        rows = [
            (b, name)
            for b, sample in enumerate(samples)
            for name in sorted(sample.drawn.modalities, key=self._index.__getitem__)
        ]
        sample = np.array([b for b, _ in rows], np.int64)
        mod = np.array([self._index[name] for _, name in rows], np.int64)
        inputs = np.array([samples[b].drawn.inputs.get(name, 0) for b, name in rows], np.int64)
        targets = np.array([samples[b].drawn.targets.get(name, 0) for b, name in rows], np.int64)
        keys = noise(keys_of(*(s.rng for s in samples))[sample], mod)
        known = (samples[b].contents[name] for b, name in rows)
        ids = [np.arange(len(content)) if content.ndim > 1 else content for content in known]
        parts = []
        for kind, group in self._groups(rows, ids).items():
            at, of, names = np.array(group), [ids[r] for r in group], [rows[r][1] for r in group]
            drawn = [samples[rows[r][0]] for r in group]
            if kind is None:
                parts.append((at, MaskedRows.of([self._one(*row) for row in zip(drawn, names, of, strict=True)])))
            elif isinstance(kind, str):
                keep = [sample.drawn.keep[name] for sample, name in zip(drawn, names, strict=True)]
                maskers = [self._sequences[name] for name in names]
                parts.append((at, mask_sequences(of, maskers, inputs[at], targets[at], keep, keys[at])))
            else:
                parts.append((at, mask_grids(of, inputs[at], targets[at], keys[at])))
        contents, components = [s.contents for s in samples], [s.drawn.component for s in samples]
        return pack_rows(self.vocabulary, sample, mod, parts, contents, components)

    def _groups(self, rows: Sequence[tuple[int, str]], ids: Sequence[np.ndarray]) -> dict[int | str | None, list[int]]:
        """Key of rows that are masked together: grids with equal numbers of tokens, sequences of one tokenizer; None:
        one by one."""
        groups: dict[int | str | None, list[int]] = {}
        for r, (_, name) in enumerate(rows):
            kind = len(ids[r]) if name in self._grids else self._spans.get(name)
            groups.setdefault(kind, []).append(r)
        return groups

    def _one(self, sample: Unmasked, name: str, ids: np.ndarray) -> Masked:
        drawn, masker = sample.drawn, self.maskers[name]
        inputs, targets = drawn.inputs.get(name, 0), drawn.targets.get(name, 0)
        try:
            m = masker.mask(ids, input_budget=inputs, target_budget=targets, keep=drawn.keep[name], rng=sample.rng)
        except Exception as error:
            raise PluginError.of(f"masker {type(masker).__name__} of {name} failed", error, _REMEDY) from error
        if wrong := _wrong(m, masker, inputs, targets):
            raise PluginError(f"masker {type(masker).__name__} of {name} gave {wrong}; {_REMEDY}")
        return m


def _wrong(m: Any, masker: Masker, inputs: int, targets: int) -> str:
    """What is wrong with the result of a plugin's masker for these budgets; "" if nothing is."""
    if not isinstance(m, Masked):
        return f"{type(m).__name__}, not a fourm_plugins.masker.Masked"
    spec, space = masker.spec, masker.spec.token_space
    places = spec.layout.num_tokens if spec.layout.kind != "sequence" else None
    size = space.size if space is not None else places
    limits = {"input_ids": size, "input_pos": places}
    limits |= {"labels": size, "target_ids": size, "target_pos": places, "target_order": None}
    for name, limit in limits.items():
        column, least = getattr(m, name), MASK if name == "target_ids" else 0
        if not (isinstance(column, np.ndarray) and column.dtype.kind in "iu" and column.ndim == 1):
            return f"{name} that are not int64 (n,)"
        wanted = m.input_ids if name.startswith("input") else m.labels
        if len(column) != len(wanted):
            return f"{len(column)} {name} for {len(wanted)} {'inputs' if wanted is m.input_ids else 'targets'}"
        if limit is not None and len(column) and not least <= column.min() <= column.max() < limit:
            return f"{name} from {column.min()} to {column.max()}, outside [{least}, {limit})"
    if len(m.input_ids) > inputs or len(m.labels) > targets:
        return f"{len(m.input_ids)} inputs and {len(m.labels)} targets for budgets {inputs} and {targets}"
    if places is not None and np.intersect1d(m.input_pos, m.target_pos).size:
        return "tokens that are both input and target"
    return ""

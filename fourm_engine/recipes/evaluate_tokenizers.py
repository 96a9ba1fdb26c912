"""Measure what tokens keep of held-out data: what `fourm tokenizer eval` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fourm_engine.device import local_device
from fourm_engine.evaluate.tokenizers import FOLDER, TokenizerEvaluation
from fourm_engine.evaluate.tokenizers import evaluate_tokenizers as measure
from fourm_engine.lock import at_work
from fourm_engine.recipes.config import RunConfig


def evaluate_tokenizers(
    config: RunConfig,
    *,
    modalities: Sequence[str] = (),
    samples: int = 512,
    pictures: int = 6,
    features: str | None = None,
    out: Path | None = None,
) -> TokenizerEvaluation:
    """Encode and decode held-out data; write tokenizers.json and sheet.png to `out`, by default
    `<run>/tokenizer-evaluation`.

    Args:
        modalities: those to measure; all with tokens where none are named.
        samples: held-out samples, the first ones.
        pictures: samples on the sheet.
        features: network for distances between sets of pictures, a folder or a Hub id.

    Raises ValueError: no held-out data, no such modality, no fitted tokenizer."""
    out = out or config.run / FOLDER
    with at_work(out):
        return measure(
            config,
            only=modalities,
            samples=samples,
            pictures=pictures,
            features=features,
            out=out,
            device=local_device(),
        )

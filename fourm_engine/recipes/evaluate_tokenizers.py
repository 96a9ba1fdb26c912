"""`fourm tokenizer eval`: from a config whose tokenizers are fitted to their scores on its held-out data."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fourm_engine.data.aligned import AlignedData
from fourm_engine.data.views import ViewDrawer
from fourm_engine.evaluate import tokenizers as evaluation
from fourm_engine.evaluate.tokenizers import FOLDER, TokenizerEvaluation
from fourm_engine.modalities import Modalities, load_manager
from fourm_engine.recipes.config import RunConfig
from fourm_engine.tokenizers.store import load_tokenizers

log = logging.getLogger(__name__)


def evaluate_tokenizers(
    config: RunConfig, *, only: Sequence[str] = (), out: Path | None = None, **options: Any
) -> TokenizerEvaluation:
    """Measure the tokenizers of a config on its held-out data, seen through centre crops.

    Args:
        only: modalities to measure; by default all with tokens.
        out: folder of the report; by default `<run>/tokenizer-evaluation`.
        options: those of `fourm_engine.evaluate.tokenizers.evaluate_tokenizers`.

    Raises ValueError: no held-out data, no such modality, no fitted tokenizer."""
    data = config.data
    if data.val is None:
        raise ValueError("data.val is not set: name the folder of held-out data")
    manager = load_manager(config.modalities)
    modalities = config.load_modalities(manager)
    chosen = _chosen(modalities, only)
    spaces = {
        space: specs for space, specs in modalities.token_spaces.items() if {spec.name for spec in specs} & set(chosen)
    }
    fitted = load_tokenizers(config.tokenizers.folder, spaces, manager, modalities=modalities)
    held_out = AlignedData.from_config(modalities, data, training=False)
    train = AlignedData.from_config(modalities, data, training=True) if data.train is not None else None
    for part in (held_out, train):
        if part is not None:
            log.info("%s", part.describe())
    centre = ViewDrawer.from_config(modalities, data, training=False)
    tokenizers = {name: fitted[name] for name in chosen}
    return evaluation.evaluate_tokenizers(
        modalities, tokenizers, held_out, train, centre, out or config.run / FOLDER, **options
    )


def _chosen(modalities: Modalities, only: Sequence[str]) -> list[str]:
    with_tokens = [name for name, modality in modalities.items() if not modality.spec.continuous]
    if unknown := sorted(set(only) - set(with_tokens)):
        raise ValueError(f"no modality {unknown[0]!r} with tokens takes part; there are {', '.join(with_tokens)}")
    return [name for name in with_tokens if not only or name in only]

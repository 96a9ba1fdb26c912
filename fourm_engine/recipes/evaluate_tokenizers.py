"""Implements `fourm tokenizer eval`: measures how well tokens reconstruct held-out data."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.sets import data_sets
from fourm_engine.data.views import ViewDrawer
from fourm_engine.device import local_device
from fourm_engine.evaluate import tokenizers as evaluation
from fourm_engine.evaluate.tokenizers import FOLDER, TokenizerEvaluation
from fourm_engine.lock import at_work
from fourm_engine.modalities import Modalities, load_manager
from fourm_engine.recipes.config import RunConfig
from fourm_engine.recipes.progress import choose_threads
from fourm_engine.tokenizers.store import load_tokenizers
from fourm_plugins.hub import check_there

log = logging.getLogger(__name__)


def evaluate_tokenizers(
    config: RunConfig,
    *,
    only: Sequence[str] = (),
    samples: int = 512,
    pictures: int = 6,
    features: str | None = None,
    out: Path | None = None,
) -> TokenizerEvaluation:
    """Encode and decode held-out data, seen through centre crops; write tokenizers.json and sheet.png.

    Args:
        only: modalities to measure; by default all that have tokens.
        samples: number of held-out samples, starting with the first.
        pictures: number of samples on the sheet.
        features: folder or Hub id of a network, for distances between sets of pictures.
        out: folder of the report; by default `<run>/tokenizer-evaluation`.

    Raises ValueError if held-out data, a modality, a fitted tokenizer or the folder `features` is missing."""
    if features is not None:
        check_there(features)
    out = out or config.run / FOLDER
    with at_work(out):
        choose_threads()
        data = config.data
        if data.val is None:
            raise ValueError("data.val is not set: name the folder of held-out data")
        manager = load_manager(config.modalities)
        modalities = config.load_modalities(manager)
        chosen = _chosen(modalities, only)
        spaces = {
            space: specs
            for space, specs in modalities.token_spaces.items()
            if {spec.name for spec in specs} & set(chosen)
        }
        fitted = load_tokenizers(config.tokenizers.folder, spaces, manager, modalities=modalities)
        held_out = AlignedData.from_config(modalities, data, training=False)
        train = [
            AlignedData.from_config(one.modalities, one.config, training=True)
            for one in data_sets(data, modalities)
            if one.config.folder is not None
        ]
        for part in (held_out, *train):
            log.info("%s", part.describe())
        return evaluation.evaluate_tokenizers(
            modalities,
            {name: fitted[name] for name in chosen},
            held_out,
            train,
            ViewDrawer.from_config(modalities, data, training=False),
            out,
            samples=samples,
            pictures=pictures,
            features=features,
            device=local_device(),
        )


def _chosen(modalities: Modalities, only: Sequence[str]) -> list[str]:
    with_tokens = [name for name, modality in modalities.items() if not modality.spec.continuous]
    if unknown := sorted(set(only) - set(with_tokens)):
        raise ValueError(f"no modality {unknown[0]!r} with tokens takes part; there are {', '.join(with_tokens)}")
    return [name for name in with_tokens if not only or name in only]

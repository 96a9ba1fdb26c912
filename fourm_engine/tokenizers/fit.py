"""Fitting the tokenizers of a run: one token space at a time, skipped where nothing has changed, resumed where it was
stopped.

In: the tokenizer of a token space, its training arrays, held-out values. Out: `<folder>/<token space>/` (see `store`)
and a report: how well held-out values survive the round trip, in their modality's own metrics, and how much of the
codebook is used.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from fourm_engine.tasks.tokenizer import TokenizerTask, fitted_folder
from fourm_engine.tokenizers.arrays import ArrayData
from fourm_engine.tokenizers.config import FitConfig
from fourm_engine.tokenizers.neural import NeuralTokenizer
from fourm_engine.tokenizers.quantisers.base import usage
from fourm_engine.tokenizers.store import load_tokenizer, read_document, save_tokenizer
from fourm_engine.train.distributed import processes, rank, sum_numbers, world_size
from fourm_engine.train.loop import Trainer
from fourm_plugins.explain import explain
from fourm_plugins.manager import PluginManager
from fourm_plugins.modality import Modality
from fourm_plugins.spec import Sequence as SequenceLayout
from fourm_plugins.tokenizer import Tokenizer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fitted:
    """A fitted tokenizer. `report`: modality -> {metric: number}, "usage" and "perplexity" as shares of the codebook,
    "dead codes" as their number. `fresh` is False where an up-to-date one was found."""

    tokenizer: Tokenizer
    report: dict[str, dict[str, float]]
    fresh: bool


def make_tokenizer(modalities: Sequence[Modality], manager: PluginManager) -> Tokenizer:
    """The tokenizer, not yet fitted, of modalities that share one token space, by their recipe.

    Raises ValueError where the recipe's kind is not installed or refuses its settings."""
    specs = [modality.spec for modality in modalities]
    recipe = specs[0].tokenizer
    assert recipe is not None, f"{specs[0].name} has no tokens"
    cls = manager.tokenizer_class(recipe.kind)
    try:
        return cls(specs, **recipe.settings)
    except ValueError as error:
        names = ", ".join(spec.name for spec in specs)
        reason = "; ".join(explain(error, cls.Settings)) if isinstance(error, ValidationError) else str(error)
        raise ValueError(f"tokenizer {recipe.kind!r} of {names}: {reason}") from error


def fit_tokenizer(
    modalities: Sequence[Modality],
    train: Mapping[str, ArrayData],
    val: Mapping[str, Sequence[Any]],
    config: FitConfig,
    folder: Path,
    manager: PluginManager,
    *,
    seed: int = 0,
) -> Fitted:
    """Fit the tokenizer of one token space and store it in `folder/<token space>/`.

    Args:
        modalities: all that use the token space.
        train: modality -> training arrays.
        val: modality -> held-out values, augmented, as `Modality.normalise` takes them.
        folder: of all tokenizers of the run.

    Every process of a distributed run calls it, within `processes(config)` if it calls it more than once; the first one
    writes. Raises ValueError where there is nothing to fit
    on, and whatever the trainer raises.
    """
    with processes(config):
        return _fit(make_tokenizer(modalities, manager), modalities, train, val, config, folder, manager, seed)


def _fit(
    tokenizer: Tokenizer,
    modalities: Sequence[Modality],
    train: Mapping[str, ArrayData],
    val: Mapping[str, Sequence[Any]],
    config: FitConfig,
    folder: Path,
    manager: PluginManager,
    seed: int,
) -> Fitted:
    assert tokenizer.spec.token_space is not None
    space = tokenizer.spec.token_space.name
    if not sum(len(data) for data in train.values()):
        names = ", ".join(modality.name for modality in modalities)
        raise ValueError(
            f"no training data for the tokenizer of {names}; add some, or leave it out of modalities.select"
        )
    neural = isinstance(tokenizer, NeuralTokenizer)
    request = _request(tokenizer, train, config if neural else None, seed)
    found = _up_to_date(folder / space, tokenizer, request, manager)
    if sum_numbers([float(found is not None)])[0] == world_size():
        assert found is not None
        return found

    runs = folder / ".fit" / space
    if isinstance(tokenizer, NeuralTokenizer):
        (data,) = train.values()
        held_out = _arrays(modalities[0], val.get(modalities[0].name, ()))
        run = runs / request["hash"]
        task = TokenizerTask(tokenizer, data, held_out, steps=config.steps, seed=seed)
        Trainer(task, config, run, seed=seed).run()
        tokenizer.load(fitted_folder(run))
    else:
        tokenizer.fit(lambda: (array for data in train.values() for array in data))
    report = {m.name: reconstruction(tokenizer, m, val.get(m.name, ())) for m in modalities}
    sum_numbers([0.0])  # every process has read what the trainer left
    if rank() == 0:
        save_tokenizer(tokenizer, folder / space, manager=manager, fit={"request": request, "report": report})
        shutil.rmtree(runs, ignore_errors=True)
    sum_numbers([0.0])  # no process goes on before it is stored
    return Fitted(tokenizer, report, fresh=True)


def _up_to_date(folder: Path, tokenizer: Tokenizer, request: dict[str, Any], manager: PluginManager) -> Fitted | None:
    """What was fitted before by this very request; None where there is none, or it is damaged."""
    try:
        document = read_document(folder)
        if document is None or document["fit"].get("request") != request:
            return None
        return Fitted(load_tokenizer(folder, tokenizer.specs, manager), document["fit"]["report"], fresh=False)
    except ValueError as error:
        log.warning("fitting again: %s", error)
        return None


def fit_network(tokenizer: NeuralTokenizer, arrays: list[Any], config: FitConfig, *, seed: int = 0) -> dict[str, float]:
    """Fit a neural tokenizer on arrays in memory, leaving nothing on disk. Returns how the arrays themselves use the
    codes."""
    data = ArrayData(arrays.__getitem__, len(arrays), fingerprint="memory", cache_bytes=0)
    task = TokenizerTask(tokenizer, data, None, steps=config.steps, seed=seed)
    with tempfile.TemporaryDirectory() as run:
        Trainer(task, config, Path(run), seed=seed).run()
        tokenizer.load(fitted_folder(Path(run)))
    return _codebook(tokenizer, tokenizer.encode(arrays))


def reconstruction(tokenizer: Tokenizer, modality: Modality, values: Sequence[Any]) -> dict[str, float]:
    """What is left of held-out values after encoding and decoding: the ceiling of any model that predicts these tokens.

    Returns the modality's metrics, and for unordered tokens the codebook's "usage" and "perplexity" in (0, 1] (means
    over the positions, where each has codes of its own), and its "dead codes", which no held-out value has."""
    if not values:
        return {}
    ids = tokenizer.encode([modality.normalise(value) for value in values])
    decoded = [modality.denormalise(array) for array in tokenizer.decode(ids)]
    report = {metric.name: float(metric.compute(decoded, list(values))) for metric in modality.metrics()}
    if not isinstance(modality.spec.layout, SequenceLayout):
        report |= _codebook(tokenizer, ids)
    return report


def _codebook(tokenizer: Tokenizer, ids: Iterable[np.ndarray]) -> dict[str, float]:
    rows = torch.from_numpy(np.stack(list(ids)))
    books = rows.unbind(1) if tokenizer.positional else [rows]
    used, perplexity = np.mean([usage(book, tokenizer.size) for book in books], axis=0).tolist()
    dead = round((1 - used) * tokenizer.size * len(books))
    return {"usage": used, "perplexity": perplexity, "dead codes": float(dead)}


def _arrays(modality: Modality, values: Sequence[Any]) -> ArrayData:
    return ArrayData(lambda i: modality.normalise(values[i]), len(values), fingerprint="held out")


def _request(
    tokenizer: Tokenizer, train: Mapping[str, ArrayData], config: FitConfig | None, seed: int
) -> dict[str, Any]:
    """All that decides the fitted state, with its hash. Settings of the trainer that change nothing are left out."""
    quiet = {"checkpoint_every", "keep", "eval_every", "log_every", "tensorboard", "threads", "cache_mb", "device"}
    request: dict[str, Any] = {
        "kind": tokenizer.kind,
        "settings": tokenizer.settings.model_dump(mode="json"),
        "specs": {spec.name: spec.fingerprint() for spec in tokenizer.specs},
        "data": {name: [data.fingerprint, len(data)] for name, data in sorted(train.items())},
        "config": config.model_dump(mode="json", exclude=quiet) if config is not None else None,
        "seed": seed,
    }
    request["hash"] = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:12]
    return request

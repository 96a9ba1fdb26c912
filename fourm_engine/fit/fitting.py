"""Fit the tokenizers of a run, one token space at a time, skipping unchanged ones and resuming interrupted ones.

In: the tokenizer of a token space, its training arrays, held-out values. Out: `<folder>/<token space>/` (see `store`)
and a report: the reconstruction of held-out values in their modality's own metrics, and the usage of the codebook.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fourm_engine.fit.adapt import AdaptTask, SizedArrays
from fourm_engine.fit.config import FitConfig
from fourm_engine.fit.samples import ArrayData, Sized
from fourm_engine.fit.task import TokenizerTask, fitted_folder
from fourm_engine.fit.up_to_date import check_same_settings, request_of, up_to_date
from fourm_engine.tokenizers.neural import NeuralTokenizer
from fourm_engine.tokenizers.quantisers.base import SAYING, usage_of
from fourm_engine.tokenizers.store import read_document, save_tokenizer
from fourm_engine.tokenizers.vit import with_position_grid
from fourm_engine.train.checkpoint import step_folder
from fourm_engine.train.distributed import processes, rank, sum_numbers, together, world_size
from fourm_engine.train.loop import Trainer
from fourm_plugins import calls
from fourm_plugins.explain import explain
from fourm_plugins.manager import PluginManager
from fourm_plugins.modality import Modality
from fourm_plugins.spec import Grid
from fourm_plugins.spec import Sequence as SequenceLayout
from fourm_plugins.tokenizer import Tokenizer


@dataclass(frozen=True)
class Fitted:
    """A fitted tokenizer. `report`: modality -> {metric: number}, with "usage" and "perplexity" as fractions of the
    codebook and "dead codes" as a count; after adapting, also "<modality> at <height>x<width>", and the same "before
    adapting". `fresh` is False if an up-to-date tokenizer was kept."""

    tokenizer: Tokenizer
    report: dict[str, dict[str, float]]
    fresh: bool


def base_first(modalities: Sequence[Modality]) -> list[Modality]:
    """Modalities that share a token space, starting with its namesake, at whose size the tokenizer is fitted."""

    def is_other(modality: Modality) -> bool:
        assert modality.spec.token_space is not None
        return modality.name != modality.spec.token_space.name

    return sorted(modalities, key=is_other)


def make_tokenizer(modalities: Sequence[Modality], manager: PluginManager, *, any_size: bool = False) -> Tokenizer:
    """The unfitted tokenizer of modalities that share a token space, from their recipe. `any_size`: support pictures of
    other sizes, which is implied if pictures share a token space. Raises ValueError if the kind is missing or rejects
    its settings, and if modalities differ in more than size."""
    specs = [modality.spec for modality in base_first(modalities)]
    recipe, space, layout = specs[0].tokenizer, specs[0].token_space, specs[0].layout
    assert recipe is not None, f"{specs[0].name} has no tokens"
    assert space is not None
    cls = manager.tokenizer_class(recipe.kind)
    try:
        settings = recipe.settings
        if issubclass(cls, NeuralTokenizer) and isinstance(layout, Grid) and (any_size or space.shared):
            settings = with_position_grid(cls.Settings(**settings), (layout.height, layout.width)).model_dump()
        return cls(specs, **settings)
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
    sizes: Sequence[Sized] = (),
    refit: bool = False,
) -> Fitted:
    """Fit the tokenizer of one token space and store it in `folder/<token space>/`. An existing one is kept if it was
    fitted by the same request; other data, steps or seeds replace it, which is logged.

    Args:
        modalities: all modalities that use the token space.
        train: modality -> training arrays.
        val: modality -> held-out values, augmented, as `Modality.normalise` takes them.
        folder: folder of all tokenizers of the run.
        sizes: sizes of `config.adapt` besides that of the first fit; if empty, the tokenizer is not adapted.
        refit: replace a tokenizer that was fitted under other settings of its modalities.

    Must be called by every process of a distributed run, within `processes(config)` if called more than once; the first
    process writes. Raises ValueError if there is no data, or the existing tokenizer was fitted under other settings
    (unless `refit`); and any error of the trainer."""
    modalities = base_first(modalities)
    with processes(config):
        tokenizer = make_tokenizer(modalities, manager, any_size=bool(sizes))
        assert tokenizer.spec.token_space is not None
        space = tokenizer.spec.token_space.name
        if not sum(len(data) for data in train.values()):
            names = ", ".join(modality.name for modality in modalities)
            raise ValueError(f"no training data for the tokenizer of {names}; add some, or leave it out")
        neural = isinstance(tokenizer, NeuralTokenizer)
        request = request_of(tokenizer, modalities, train, config if neural else None, seed)
        stamps = {name: data.stamp() for name, data in sorted(train.items())}
        kept = up_to_date(folder / space, tokenizer, modalities, request, stamps, manager, refit)
        if sum_numbers([float(kept is not None)])[0] == world_size():
            assert kept is not None
            return Fitted(*kept, fresh=False)

        runs = folder / ".fit" / space
        report: dict[str, dict[str, float]] = {}
        if isinstance(tokenizer, NeuralTokenizer):
            # Independent of the adaptation, so that another one can start from the same run.
            first = config.model_copy(update={"adapt": None})
            run = runs / request_of(tokenizer, modalities, train, first, seed)["hash"]
            base = modalities[0]
            base_size = Sized(base, train[base.name], val.get(base.name, ()))
            _train(tokenizer, base_size, first, run, seed, manager)
            if sizes:
                report = _adapt(tokenizer, [base_size, *sizes], config, run, runs / request["hash"], seed, manager)
        else:
            tokenizer.fit(lambda: (array for data in train.values() for array in data))
        members = {m.name: reconstruction(tokenizer.for_spec(m.spec), m, val.get(m.name, ())) for m in modalities}
        report = members | report
        sum_numbers([0.0])  # wait until every process has read the trainer's output
        fit = {"request": request, "stamps": stamps, "report": report}

        def store() -> None:
            save_tokenizer(tokenizer, folder / space, manager=manager, modalities=modalities, fit=fit)
            shutil.rmtree(runs, ignore_errors=True)

        together(lambda: store() if rank() == 0 else None)  # all processes wait until it is stored
        return Fitted(tokenizer, report, fresh=True)


def _train(
    tokenizer: NeuralTokenizer, size: Sized, config: FitConfig, run: Path, seed: int, manager: PluginManager
) -> None:
    held_out = _arrays(size.modality, size.val)
    task = TokenizerTask(tokenizer, size.train, held_out, steps=config.plan().steps, seed=seed)
    Trainer(task, config, run, seed=seed, host=manager).run()
    tokenizer.load(fitted_folder(run))


def _adapt(
    tokenizer: NeuralTokenizer,
    sizes: Sequence[Sized],
    config: FitConfig,
    start: Path,
    run: Path,
    seed: int,
    manager: PluginManager,
) -> dict[str, dict[str, float]]:
    """Adapt a tokenizer to `sizes`, its own first, starting from the end of the run `start`. Returns the report before
    and after."""
    assert config.adapt is not None
    served = [tokenizer.for_spec(size.modality.spec) for size in sizes]
    arrays = [
        SizedArrays(tokenizer_of_size, size.train, _arrays(size.modality, size.val))
        for tokenizer_of_size, size in zip(served, sizes, strict=True)
    ]

    def measure(when: str) -> dict[str, dict[str, float]]:
        return {
            f"{size.modality.name} at {array.name}{when}": reconstruction(array.tokenizer, size.modality, size.val)
            for size, array in zip(sizes, arrays, strict=True)
        }

    before, how = measure(", before adapting"), config.adapting()
    last = step_folder(start / "checkpoints", config.plan().steps)
    task = AdaptTask(tokenizer, arrays, start=last, steps=how.plan().steps, seed=seed)
    Trainer(task, how, run, seed=seed, host=manager).run()
    tokenizer.load(fitted_folder(run))
    return before | measure("")


def check_settings(modalities: Sequence[Modality], folder: Path, manager: PluginManager) -> None:
    """Raise ValueError if the tokenizer below `folder` was fitted under other settings of `modalities`."""
    tokenizer = make_tokenizer(modalities, manager)
    assert tokenizer.spec.token_space is not None
    folder = folder / tokenizer.spec.token_space.name
    try:
        document = read_document(folder)
    except ValueError:  # damaged, so it will be fitted again
        return
    if document is not None:
        check_same_settings(document, folder, tokenizer, base_first(modalities))


def fit_network(
    tokenizer: NeuralTokenizer, arrays: Sequence[Any], config: FitConfig | None = None, *, seed: int = 0
) -> dict[str, float]:
    """Fit a neural tokenizer on arrays in memory, without leaving files on disk. Returns the fraction of codes that the
    arrays use ("usage", "perplexity") and the number of "dead codes"."""
    config = config or FitConfig()
    data = ArrayData(arrays.__getitem__, len(arrays), fingerprint="memory", cache_bytes=0)
    task = TokenizerTask(tokenizer, data, None, steps=config.plan().steps, seed=seed)
    with tempfile.TemporaryDirectory() as run:
        Trainer(task, config, Path(run), seed=seed).run()
        tokenizer.load(fitted_folder(Path(run)))
    return usage_of(calls.encode(tokenizer, arrays), tokenizer.size, positional=tokenizer.positional)


def reconstruction(tokenizer: Tokenizer, modality: Modality, values: Sequence[Any]) -> dict[str, float]:
    """Metrics of held-out values after encoding and decoding, the ceiling of any model that predicts these tokens.
    Returns the modality's metrics, and for unordered tokens the codebook's "usage" and "perplexity" in (0, 1] (means
    over positions, if each has its own codes), and the number of "dead codes", which no held-out value uses. The last
    three require at least `SAYING` held-out tokens per code."""
    if not values:
        return {}
    ids = calls.encode(tokenizer, [modality.normalise(value) for value in values])
    decoded = [calls.denormalise(modality, array) for array in calls.decode(tokenizer, ids)]
    report = {m.name: calls.compute(modality, m, decoded, list(values)) for m in calls.metrics(modality)}
    if not isinstance(modality.spec.layout, SequenceLayout):
        report |= usage_of(ids, tokenizer.size, positional=tokenizer.positional, least=SAYING)
    return report


def _arrays(modality: Modality, values: Sequence[Any]) -> ArrayData:
    return ArrayData(lambda i: modality.normalise(values[i]), len(values), fingerprint="held out", cache_bytes=0)

"""Implements `fourm evaluate`: scores a trained model on held-out samples.

Scores its predictions, measures the any-to-any matrix, and writes both and the loss curves to one page.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fourm_engine import exported
from fourm_engine.convert import published
from fourm_engine.data.config import DataConfig
from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.raw.root import is_there
from fourm_engine.data.sets import data_sets
from fourm_engine.evaluate.agreement import features_of
from fourm_engine.evaluate.charts import check_matplotlib, read_curves, training_seconds
from fourm_engine.evaluate.config import EvaluateConfig
from fourm_engine.evaluate.frechet import encoder_metrics
from fourm_engine.evaluate.matrix import measure_matrix
from fourm_engine.evaluate.pictures import SamplePictures
from fourm_engine.evaluate.predict import Predictor
from fourm_engine.evaluate.report import page_of
from fourm_engine.evaluate.results import Evaluation, Matrix, TaskResult
from fourm_engine.evaluate.run_parallel import run_parallel
from fourm_engine.evaluate.samples import Samples, load_samples
from fourm_engine.evaluate.tasks import Task, resolve_tasks
from fourm_engine.files import write_together
from fourm_engine.lock import at_work
from fourm_engine.modalities import check_settings
from fourm_engine.model import FourM
from fourm_engine.recipes.config import BEST, CONFIG, RunConfig, config_beside, load_config, manager_of_run
from fourm_engine.recipes.progress import choose_threads
from fourm_engine.storage.url import Folder
from fourm_engine.train.metrics import duration
from fourm_engine.yaml_config import ConfigError, validated
from fourm_plugins.counting import counted
from fourm_plugins.hub import HUB_ID, check_there, is_path
from fourm_plugins.modality import Metric

log = logging.getLogger(__name__)

JSON, REPORT = "evaluation.json", "report.html"


@dataclass(frozen=True)
class Evaluated:
    """The scores, the pictures of each task, and the report's folder."""

    evaluation: Evaluation
    pictures: dict[str, list[SamplePictures]]
    folder: Path


def evaluate(
    run: str | Path,
    overrides: Sequence[str] = (),
    *,
    config: Path | None = None,
    data: str | Path | None = None,
    out: Path | None = None,
    samples: int | None = None,
    seed: int | None = None,
    matrix: bool = True,
    features: str | None = None,
    agreement: str | None = None,
    draws: int | None = None,
    extra_metrics: Mapping[str, Sequence[Metric]] | None = None,
    jobs: int = 1,
) -> Evaluated:
    """Evaluate the exported model of a run and write the report to `out` (by default `<run>/evaluation`).

    Args:
        run: folder of a run, its `best/`, an exported model, or a Hub id.
        overrides: `section.key=value` for its config.
        config: instead of `<run>/config.yaml`; only the sections `data` and `evaluate` are used.
        data: folder or URL of held-out samples, instead of `data.val`.
        samples, seed: instead of the config's.
        matrix: whether to measure the any-to-any matrix.
        features: name or folder of a pretrained network, for metrics on its features, such as the Fréchet distance
            between predicted and true samples (`Modality.network_metrics`); or a run, for the Fréchet distance of
            every grid in the features of its encoder (`encoder_metrics`).
        agreement, draws: override the config's.
        extra_metrics: modality -> metrics to add to the modality's own.
        jobs: tasks (including the matrix) to run in parallel, each in a single-threaded process; on a CPU only.

    Raises ValueError if the model, the config or held-out data is missing, or the data cannot be used or scored."""
    folder = Path(run)
    if published.find(folder) is None and (folder.exists() or is_path(run) or not HUB_ID.fullmatch(str(run))):
        exported.locate(run)  # report problems of the model before those of its config
    run_config = _read_config(folder, overrides, config, data)
    settings = run_config.evaluate if run_config else EvaluateConfig()
    given = {"samples": samples, "seed": seed, "agreement": agreement, "draws": draws}
    given = {key: value for key, value in given.items() if value is not None}
    settings = validated(EvaluateConfig, settings.model_dump() | given, "evaluate.")
    for network in filter(None, (features, settings.agreement)):
        check_there(network)  # fail before the model is loaded
    if out is None and not folder.is_dir():
        raise ValueError(f"{run} is not a folder to write to; name a folder for the report with --out")
    if out is None and data is not None and config_beside(folder).is_file():
        raise ValueError(f"--data: {folder}/evaluation is of the run's own held-out samples; name a folder with --out")
    out = out or folder / "evaluation"

    curves = read_curves(folder / "metrics.jsonl")
    if curves:
        check_matplotlib()  # fail before predicting
    with at_work(out):
        choose_threads()
        began = time.perf_counter()
        manager = manager_of_run(run)
        model = FourM.from_pretrained(run, manager=manager)
        if jobs > 1 and model.device.type != "cpu":
            raise ValueError("--jobs is for a CPU, and the model is on a GPU; leave it out")
        if run_config is not None:
            where = f"{config or config_beside(folder)}: the model in {run} is another"
            remedy = "leave the section out, as the model has its settings"
            check_settings(run_config.modalities, model.modalities, manager, where=where, remedy=remedy)
        tasks, notes = resolve_tasks(settings.tasks, model.modalities, model.missing)
        if features is not None:
            extra_metrics = _with_features(features, model, tasks, extra_metrics or {})
        contrast = None if settings.agreement is None else features_of(settings.agreement, model.modalities, tasks)
        held_out, training = _load_data(model, run_config, data, settings, notes, matrix=matrix)
        predictor = Predictor(model, held_out, training, settings, extra_metrics=extra_metrics, features=contrast)
        tokenizers = predictor.tokenizers()  # ids and ceilings, shared by all tasks
        results, pictures, measured = _work(predictor, tasks, jobs=jobs, matrix=matrix)
        if results and not any(result.agreement or any(result.scored.values()) for result in results):
            location = data or (run_config.data.val if run_config else run)
            raise ValueError(f"{location}: no sample has both the inputs and a target of a task")
        facts = _facts(model, run_config, folder, len(held_out.names), settings, time.perf_counter() - began)
        evaluation = Evaluation(facts, results, measured, tokenizers, notes + predictor.notes)
        page = page_of(evaluation, pictures, curves, title=f"Evaluation of {folder.name}")
        write_together({out / JSON: evaluation.text(), out / REPORT: page})
        return Evaluated(evaluation, pictures, out)


def _work(
    predictor: Predictor, tasks: Sequence[Task], *, jobs: int, matrix: bool
) -> tuple[list[TaskResult], dict[str, list[SamplePictures]], Matrix | None]:
    """The result of each task, its pictures, and the matrix."""

    def run(task: Task) -> tuple[TaskResult, list[SamplePictures], list[str]]:
        return *predictor.run(task), predictor.notes

    def measure() -> Matrix:
        return measure_matrix(predictor.model, predictor.held_out, predictor.ids, predictor.config)

    results: dict[str, TaskResult] = {}
    pictures: dict[str, list[SamplePictures]] = {}
    measured: Matrix | None = None
    # The matrix first, as it takes longest.
    pieces: list[Callable[[], Any]] = [measure] * matrix + [partial(run, task) for task in tasks]
    for number, result in run_parallel(pieces, jobs):
        if matrix and number == 0:
            measured = result
            log.info("any-to-any matrix: %d x %d in %.1f s", len(result.inputs), len(result.targets), result.seconds)
            continue
        task, shown, notes = result
        results[task.name], pictures[task.name] = task, shown
        predictor.notes = list(dict.fromkeys([*predictor.notes, *notes]))
        log.info("%s: %s in %.1f s", task.name, counted(task.samples, "sample"), task.seconds)
    order = [task.name for task in tasks]
    return [results[name] for name in order], {name: pictures[name] for name in order}, measured


def _with_features(
    features: str, model: FourM, tasks: Sequence[Task], others: Mapping[str, Sequence[Metric]]
) -> dict[str, list[Metric]]:
    """Target -> its metrics on the features of a network, or of the encoder of a run, followed by `others`."""
    targets = list(dict.fromkeys(target for task in tasks for target in task.targets))
    metrics: Mapping[str, Sequence[Metric]]
    if exported.is_model(features):
        judge = FourM.from_pretrained(features, device=model.device, manager=manager_of_run(features))
        metrics = encoder_metrics(Path(features), judge, targets)
    else:
        metrics = {name: model.modalities[name].network_metrics(features) for name in targets}
    if not any(metrics.values()):
        raise ValueError(f"--features: none of the targets {', '.join(targets)} is measured in features; leave it out")
    return {name: [*metrics.get(name, ()), *others.get(name, ())] for name in {*metrics, *others}}


def _read_config(
    folder: Path, overrides: Sequence[str], config: Path | None, data: str | Path | None
) -> RunConfig | None:
    path = config or config_beside(folder)
    if config is None and not path.is_file():
        if data is None:
            raise ValueError(f"{folder} holds no {CONFIG}; give one (--config), or held-out samples (--data)")
        if overrides:
            raise ConfigError(f"{folder} holds no {CONFIG} to override; give one (--config)")
        return None
    loaded = load_config(path, overrides, needed=("data.val",) if data is None else ())
    if data is None and loaded.data.val is None:
        raise ValueError(f"{path}: data.val names no held-out samples; set it, or give a folder (--data)")
    return loaded


def _load_data(
    model: FourM,
    config: RunConfig | None,
    data: str | Path | None,
    settings: EvaluateConfig,
    notes: list[str],
    *,
    matrix: bool,
) -> tuple[Samples, dict[str, list[Any]]]:
    """The held-out samples, and the training values of every target."""
    given = config.data if config else DataConfig()
    trained = given
    if data is not None:
        other = {"val": str(data), "val_split": None, "held_out": None}
        given = validated(DataConfig, given.model_dump() | other, "data.")
        trained = trained if trained.held_out is not None else given
    chosen = AlignedData.from_config(model.modalities, given, training=False)
    notes.append(chosen.describe())
    number = max(settings.samples, settings.matrix_samples if matrix else 0)
    held_out = load_samples(chosen, given, samples=number, seed=settings.seed)
    notes += [f"{count} held-out files of {name} could not be used" for name, count in sorted(held_out.errors.items())]
    targets = {name: modality for name, modality in model.modalities.items() if modality.spec.target}
    sets = data_sets(trained, model.modalities)
    folders = [one.config.folder for one in sets if one.config.folder is not None]
    known = []
    for one in sets:
        if _there(one.config.folder):
            wanted = {name: modality for name, modality in one.modalities.items() if name in targets}
            known.append(AlignedData.from_config(wanted, one.config, training=True))
    if not known:
        named = ", ".join(map(str, folders))
        where = f"are there (data.train: {named})" if folders else "are configured (data.train)"
        notes.append(f"no training samples {where}, so no constant predictors are fitted")
        return held_out, {}
    values: dict[str, list[Any]] = {name: [] for name in targets}
    total = sum(len(part.names) for part in known)
    for part in known:  # each data set contributes its share of the samples
        notes.append(f"constant predictors are fitted to {part.describe()}")
        samples = -(-settings.constant_samples * len(part.names) // total)
        train = load_samples(part, given, samples=samples, seed=settings.seed)
        for name, by_sample in train.values.items():
            values[name] += by_sample.values()
    return held_out, values


def _there(folder: Folder | str | None) -> bool:
    """Whether a local data folder exists. True for anything else, which is only checked on reading."""
    return folder is not None and (not isinstance(folder, Path) or is_there(folder))


def _facts(
    model: FourM, config: RunConfig | None, folder: Path, held_out: int, settings: EvaluateConfig, seconds: float
) -> dict[str, Any]:
    counts = model.network.parameter_counts()
    facts: dict[str, Any] = {"model": str(folder), "parameters": sum(counts.values())}
    if finished := _finished_steps(folder):
        facts["steps"] = finished
    if config is not None:
        facts["batch size"] = config.train.batch_size
        if trained := training_seconds(folder / "metrics.jsonl", config.train.batch_size):
            facts["training time"] = duration(trained)
    facts["plugins"] = {p.distribution: p.version for p in model.modalities.plugins.values()}
    if model.missing:
        facts["not loaded"] = sorted(model.missing)
    return facts | {"held-out samples": held_out, "seed": settings.seed, "evaluation time": duration(seconds)}


def _finished_steps(folder: Path) -> int | None:
    note = folder / (BEST if (folder / BEST).is_file() else "finished.json")
    try:
        return int(json.loads(note.read_text(encoding="utf-8"))["step"])
    except (OSError, ValueError, KeyError, TypeError):
        return None

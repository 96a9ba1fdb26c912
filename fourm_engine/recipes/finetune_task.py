"""Teach a trained model's encoder a task, and use it: what `fourm finetune` (with a `task`) and `fourm predict` do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.raw.documents import documented
from fourm_engine.data.views import ViewDrawer
from fourm_engine.device import rank_and_world
from fourm_engine.lock import at_work
from fourm_engine.modalities import Modalities, activate_kinds, identity, load_manager, load_modalities
from fourm_engine.recipes.config import manager_of_run
from fourm_engine.recipes.generate import write
from fourm_engine.recipes.task_config import TaskRunConfig
from fourm_engine.recipes.tell import Tell, choose_threads, first_only, say
from fourm_engine.train.distributed import check_same, processes
from fourm_engine.train.loop import Trainer
from fourm_engine.transfer.answers import Classes
from fourm_engine.transfer.classification import Classification
from fourm_engine.transfer.config import ClassificationConfig
from fourm_engine.transfer.labels import Labels, check_known, classes_of, of_file, of_folders, only_known
from fourm_engine.transfer.mixing import mixing_of
from fourm_engine.transfer.model import load_head
from fourm_engine.transfer.objective import Objective
from fourm_engine.transfer.samples import TaskSamples
from fourm_engine.transfer.saved import objective_of
from fourm_engine.transfer.source import TaskSource, describe_source, open_source
from fourm_engine.transfer.task import HeadTask
from fourm_plugins.manager import PluginManager


def finetune(config: TaskRunConfig, *, tell: Tell = say) -> dict[str, float]:
    """Train, or continue; returns the held-out metrics. Writes the head to `<run>/head/`, and with `train.keep_best`
    the weights of the best evaluation to `<run>/best/head/`.

    Raises ValueError for what a user can fix: a plugin, the config, the model, labels or data; Busy if another process
    trains in that folder."""
    with at_work(config.run):
        manager = load_manager(config.modalities)
        inputs, target = modalities_of(config, manager)
        activate_kinds(inputs, manager, maskers=False)
        manager.head(config.task.head)
        manager.optimiser(config.train.optimiser)
        manager.schedule(config.train.schedule)
        if rank_and_world()[0] == 0:
            manager.activate_observers(None if config.observers == "installed" else config.observers)
        model = describe_source(config.finetune.source, manager).model
        with processes(config.train, width=model.width):
            check_same(identity(inputs, manager))
            source = open_source(config.finetune.source, inputs, manager)
            task = task_of(config, source, target, manager, tell)
            trainer = Trainer(task, config.train, config.run, seed=config.seed, host=manager, accepted=config.store)
            return trainer.run()


def modalities_of(config: TaskRunConfig, manager: PluginManager) -> tuple[Modalities, Modalities]:
    """The inputs, and the modality to learn, if it is one. Raises ValueError if the target reads the files of an input,
    which would give the answer away."""
    inputs = load_modalities(config.inputs, manager)
    name = getattr(config.task, "target", None)
    if name is None:
        return inputs, Modalities([], {}, manager)
    settings = dict(config.modalities.settings.get(name, {}))
    section = config.modalities.model_copy(update={"select": [name], "settings": {name: settings}})
    target = load_modalities(section, manager)
    folders = [
        folder for folder in (config.data.folder, config.data.val) if isinstance(folder, Path) and folder.is_dir()
    ]
    if documents := documented(target, {name: settings}, folders):
        settings = {**settings, **documents[name]}
        config.modalities.settings[name] = settings  # as a model's config has it
        target = load_modalities(section.model_copy(update={"settings": {name: settings}}), manager)
    for one in inputs.values():
        if one.spec.files == target[name].spec.files:
            raise ValueError(
                f"task.target: {name!r} reads the files of the input {one.name!r} ({one.spec.source}/), and would tell "
                f"the answer; take it out of modalities.select, or give one of them another `source`"
            )
    return inputs, target


def task_of(
    config: TaskRunConfig, source: TaskSource, target: Modalities, manager: PluginManager, tell: Tell = say
) -> HeadTask:
    """The task of a config, with its data open. Raises ValueError."""
    inputs, settings = source.training, config.task
    everything = Modalities((inputs | target).values(), inputs.plugins | target.plugins, manager)
    tokenizers = {}
    if inputs.token_spaces:
        if config.tokenizers.folder is None:
            raise ValueError("tokenizers.folder: not set, and published models have no tokenizers; name the folder")
        tokenizers = dict(source.tokenizers(config.tokenizers.folder))
    _check_layout(config, inputs)
    train = AlignedData.from_config(everything, config.data, training=True)
    val = None if config.data.val is None else AlignedData.from_config(everything, config.data, training=False)
    objectives = _objectives(config, target, train, val)
    vocabulary = source.inputs
    samples = []
    for data, objective, training in zip((train, val), objectives, (True, False)):
        if data is None:
            continue
        samples.append(
            TaskSamples(
                data,
                inputs,
                tokenizers,
                objective,
                vocabulary,
                ViewDrawer.from_config(everything, config.data, training=training, seed=config.seed),
                config.data,
                seed=config.seed,
                training=training,
                batch_size=config.train.batch_size,
                mixing=mixing_of(settings, vocabulary) if training else None,
                dropout=settings.modality_dropout if training else 0.0,
            )
        )
        first_only(tell)(samples[-1].describe())
    return HeadTask(
        source,
        config.finetune,
        settings,
        objectives[0],
        target,
        tokenizers,
        samples[0],
        samples[1] if val is not None else None,
        manager,
        workers=config.data.workers,
    )


def _check_layout(config: TaskRunConfig, inputs: Modalities) -> None:
    """Raise ValueError if pictures lie in folders of classes while the only input expects a sub-folder for itself."""
    if not isinstance(config.task, ClassificationConfig) or len(inputs) != 1:
        return
    ((name, modality),) = inputs.items()
    for part, root in (("train", config.data.folder), ("val", config.data.val)):
        if not isinstance(root, Path) or not root.is_dir() or (root / modality.spec.source).is_dir():
            continue
        files = (file for file in root.glob("*/*") if file.suffix.lower().lstrip(".") in modality.spec.extensions)
        if (file := next(files, None)) is not None:
            raise ValueError(
                f"data.{part}: {root} has no folder {modality.spec.source}/, but {file.relative_to(root)}; for folders "
                f"of classes right below it set modalities.settings.{name}.source: ."
            )


def _objectives(
    config: TaskRunConfig, target: Modalities, train: AlignedData, val: AlignedData | None
) -> tuple[Objective, Objective]:
    """The objectives for training and for measuring, with the labels of their samples."""
    settings = config.task
    if not isinstance(settings, ClassificationConfig):
        objective = objective_of(settings, target=next(iter(target.values())))
        return objective, objective
    labels, classes = dict[str, Labels](), tuple[str, ...]()
    for part, data in (("train", train), ("val", val)):
        if data is None:
            continue
        file = settings.labels if part == "train" else settings.val_labels or settings.labels
        names = data.names
        labels[part] = of_folders(names) if file is None else of_file(file, names, several=settings.several)
        classes = classes or classes_of(labels["train"])
        if part == "val" and isinstance(config.data.held_out, float):  # by chance, all samples of a class
            labels[part] = only_known(labels[part], classes)
        check_known(labels[part], classes, f"data.{part}" if file is None else str(file))
    return Classification(settings, classes, labels["train"]), Classification(settings, classes, labels.get("val"))


def predict(
    run: str | Path,
    sample: Mapping[str, Any],
    *,
    out: Path | None = None,
    k: int = 5,
    device: str | None = None,
    tell: Tell = say,
) -> None:
    """Tell the `k` likeliest classes of a sample, with probabilities; or write the predicted map to the folder `out`:
    files of its modality's format, and a picture to look at.

    Raises ValueError if there is no trained head, if a map is predicted without `out`, and for a sample that does not
    fit."""
    choose_threads(device)
    model = load_head(run, device=device, manager=manager_of_run(run))
    if model.objective.modality is not None and out is None:
        raise ValueError(f"{run} predicts a map of {model.objective.modality.name!r}; name a folder for it: --out")
    answer = model.predict(sample)
    if isinstance(answer, Classes):
        for name, share in answer.likeliest(k):
            tell(f"{share:.4f} {name}")
        return
    assert out is not None
    with at_work(out):
        for path in write(answer, out, answer.modality.name):
            tell(str(path))

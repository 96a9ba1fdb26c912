"""Implements `fourm finetune` with a `task`: trains a head, and optionally the encoder, of a trained model on it."""

from __future__ import annotations

from itertools import combinations, product
from pathlib import Path

from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.raw.documents import documented
from fourm_engine.data.views import ViewDrawer
from fourm_engine.modalities import Modalities, activate_kinds, load_manager, load_modalities
from fourm_engine.recipes.agreement import check_agreement
from fourm_engine.recipes.progress import PrintFn, first_only, print_line
from fourm_engine.recipes.task_config import TaskRunConfig
from fourm_engine.recipes.task_labels import objectives_of
from fourm_engine.train.distributed import processes
from fourm_engine.train.loop import Trainer
from fourm_engine.train.watchdog import exclusive_run
from fourm_engine.transfer.augmentation import augmentation_of
from fourm_engine.transfer.config import ClassificationConfig, DetectionConfig, RetrievalConfig
from fourm_engine.transfer.mixup import mixing_of
from fourm_engine.transfer.samples import TaskSamples
from fourm_engine.transfer.source import TaskSource, describe_source, open_source
from fourm_engine.transfer.task import HeadTask
from fourm_plugins.manager import PluginManager


def finetune(config: TaskRunConfig, *, print_fn: PrintFn = print_line) -> dict[str, float]:
    """Train, or resume; returns the held-out metrics. Writes the head to `<run>/head/`, and with `train.keep_best` the
    weights of the best evaluation to `<run>/best/head/`.

    Raises ValueError for problems that a user can fix: a plugin, the config, the model, labels or data; Busy if another
    process is training in the folder."""
    with exclusive_run(config.run, config.train.watchdog_s):
        manager = load_manager(config.modalities)
        inputs, target = modalities_of(config, manager)
        activate_kinds(inputs, manager, maskers=False)
        manager.head(config.task.head)
        config.activate(manager, config.train)
        model = describe_source(config.finetune.source, manager).model
        with processes(config.train, width=model.width):
            check_agreement(config, inputs, manager)
            source = open_source(config.finetune.source, inputs, manager)
            task = task_of(config, source, target, manager, print_fn)
            trainer = Trainer(task, config.train, config.run, seed=config.seed, host=manager, accepted=config.store)
            return trainer.run()


def modalities_of(config: TaskRunConfig, manager: PluginManager) -> tuple[Modalities, Modalities]:
    """(inputs, target), the latter empty if the target is not a modality. Raises ValueError if the target, or another
    side, reads the same files as an input, which would leak the answer."""
    inputs = load_modalities(config.inputs, manager)
    if isinstance(config.task, RetrievalConfig):
        _check_sides(config.task, inputs)
    name = getattr(config.task, "target", None)
    if name is None:
        return inputs, Modalities([], {}, manager)
    settings = dict(config.modalities.settings.get(name, {}))
    section = config.modalities.model_copy(update={"select": [name], "settings": {name: settings}})
    target = load_modalities(section, manager)
    named = (config.data.folder, config.data.val)
    folders = [folder for folder in named if isinstance(folder, Path) and folder.is_dir()]
    if documents := documented(target, {name: settings}, folders):
        settings = {**settings, **documents[name]}
        config.modalities.settings[name] = settings  # as in a model's config
        target = load_modalities(section.model_copy(update={"settings": {name: settings}}), manager)
    for one in inputs.values():
        if one.spec.files == target[name].spec.files:
            raise ValueError(
                f"task.target: {name!r} reads the files of the input {one.name!r} ({one.spec.source}/), and would tell "
                f"the answer; take it out of modalities.select, or give one of them another `source`"
            )
    return inputs, target


def _check_sides(config: RetrievalConfig, inputs: Modalities) -> None:
    for side, other in combinations(config.between, 2):
        for one, another in product(side, other):
            if inputs[one].spec.files == inputs[another].spec.files:
                raise ValueError(
                    f"task.between: {one!r} and {another!r} read the same files ({inputs[one].spec.source}/), and find "
                    f"each other without learning; put them on one side, or give one of them another `source`"
                )


def task_of(
    config: TaskRunConfig,
    source: TaskSource,
    target: Modalities,
    manager: PluginManager,
    print_fn: PrintFn = print_line,
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
    objectives = objectives_of(config, inputs, target, train, val)
    vocabulary = source.inputs
    mixing = mixing_of(settings, vocabulary)
    augmentation = augmentation_of(settings, inputs, config.data, seed=config.seed)
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
                mixing=mixing if training else None,
                augmentation=augmentation if training else None,
                dropout=settings.modality_dropout if training else 0.0,
            )
        )
        first_only(print_fn)(samples[-1].describe())
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
    """Raise ValueError if pictures lie in one folder per class while the only input expects its own sub-folder."""
    if not isinstance(config.task, (ClassificationConfig, DetectionConfig)) or len(inputs) != 1:
        return
    ((name, modality),) = inputs.items()
    for part, root in (("train", config.data.folder), ("val", config.data.val)):
        if not isinstance(root, Path) or not root.is_dir() or (root / modality.spec.source).is_dir():
            continue
        files = (file for file in root.glob("*/*") if file.suffix.lower().lstrip(".") in modality.spec.extensions)
        if (file := next(files, None)) is not None:
            remedy = f"for folders of classes right below it set modalities.settings.{name}.source: ."
            what = f"{root} has no folder {modality.spec.source}/, but {file.relative_to(root)}"
            raise ValueError(f"data.{part}: {what}; {remedy}")

"""Implements `fourm train`: from a run's config to an exported model."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from fourm_engine.data.sets import data_sets, say_unused_lists
from fourm_engine.evaluate.run_pictures import pictures_of
from fourm_engine.evaluate.tasks import task_notes
from fourm_engine.finetune.source import Source
from fourm_engine.finetune.task import FinetuneTask
from fourm_engine.modalities import Modalities, activate_kinds, load_manager
from fourm_engine.pretrain.task import FourMTask
from fourm_engine.recipes.agreement import check_agreement
from fourm_engine.recipes.check_tokens import check_tokens_exist, check_tokens_fresh
from fourm_engine.recipes.config import RunConfig
from fourm_engine.recipes.extend import open_extension, train_extension
from fourm_engine.recipes.progress import PrintFn, first_only, print_line, warn
from fourm_engine.tokenizers.store import load_tokenizers
from fourm_engine.train.distributed import processes
from fourm_engine.train.loop import Trainer
from fourm_engine.train.watchdog import exclusive_run
from fourm_plugins.manager import PluginManager


def train(config: RunConfig, *, print_fn: PrintFn = print_line, replay: Path | None = None) -> dict[str, float]:
    """Train on the installed (or selected) modalities, or resume. Returns the held-out nats per token.

    A config with a `finetune` section starts from a model's weights; one with an `extend` section continues from `fourm
    extend`. With `replay`, a file in `<run>/not-finite/`, that step is recomputed and reported instead of training; the
    run itself may be training meanwhile.

    Raises ValueError for problems that a user can fix (a plugin, the config, missing tokenizers or data), and Busy if
    another process is training in the folder."""
    if replay is not None:  # hooks need the output of every module, which compiled blocks hide
        config = config.model_copy(update={"train": config.train.model_copy(update={"compile": False})})
    if config.extend is not None:
        return train_extension(config, open_extension(config), print_fn=print_fn, replay=replay)
    with exclusive_run(config.run, config.train.watchdog_s) if replay is None else nullcontext():
        manager = load_manager(config.modalities)
        modalities = config.load_modalities(manager)
        activate_kinds(modalities, manager, maskers=True)
        config.activate(manager, config.train)
        with processes(config.train, width=config.model.width):
            check_agreement(config, modalities, manager)
            check_tokens_exist(config, modalities)
            source = None
            if config.finetune is not None:
                source = Source.open(config.finetune, modalities, config.model, manager)
            trainer = _trainer(config, modalities, manager, source, print_fn)
            return trainer.run() if replay is None else trainer.replay(replay, print_fn)


def _trainer(
    config: RunConfig, modalities: Modalities, manager: PluginManager, source: Source | None, print_fn: PrintFn
) -> Trainer:
    folder = config.tokenizers.folder
    if source is None:
        tokenizers = load_tokenizers(folder, modalities.token_spaces, manager, modalities=modalities)
    else:
        tokenizers = source.tokenizers(folder)
    manager.freeze()
    check_tokens_fresh(config, modalities, tokenizers)
    vocabulary = modalities.vocabulary() if source is None else source.vocabulary

    say_unused_lists(data_sets(config.data, modalities))
    data = partial(config.open_samples, modalities, tokenizers, manager, vocabulary)
    held_out = data(training=False) if config.data.val is not None else None
    training = data(training=True)
    first_only(print_fn)(training.store.describe())
    if held_out is not None:
        first_only(print_fn)(held_out.store.describe())
        held_out[0]  # if no sample fits the mixture, fail before training
    parts = training, held_out
    seen = modalities if source is None else source.training
    for note in task_notes(config.evaluate.tasks, seen):
        first_only(warn)(note)
    options: Any = {
        "loss": config.loss,
        "workers": config.data.workers,
        "picture": pictures_of(config.train, seen, config.data, config.evaluate),
    }
    if source is None:
        task = FourMTask(modalities, tokenizers, config.model, *parts, **options)
    else:
        task = FinetuneTask(source, tokenizers, *parts, **options)
    # Stored only once accepted: a config that the checkpoints reject must not replace the one that made them.
    return Trainer(task, config.train, config.run, seed=config.seed, host=manager, accepted=config.store)

"""Train a model, from a run's config to an exported folder: what `fourm train` does."""

from __future__ import annotations

from collections.abc import Mapping

from fourm_engine.data.samples import MaskedSamples
from fourm_engine.evaluate.watching import pictures_of
from fourm_engine.lock import at_work
from fourm_engine.modalities import Modalities, activate_kinds, identity, load_manager
from fourm_engine.pretrain.task import FourMTask
from fourm_engine.recipes.config import RunConfig
from fourm_engine.recipes.extend import open_extension, train_extension
from fourm_engine.recipes.tell import Tell, first_only, say
from fourm_engine.tokenizers.store import load_tokenizers
from fourm_engine.train.distributed import check_same, processes
from fourm_engine.train.loop import Trainer
from fourm_plugins.manager import PluginManager
from fourm_plugins.tokenizer import Tokenizer


def train(config: RunConfig, *, tell: Tell = say) -> dict[str, float]:
    """Train on the modalities that are installed (or selected), or continue; returns the held-out nats per token. A
    config with an `extend` section continues what `fourm extend` began.

    Raises ValueError for what a user can fix: a plugin, the config, missing tokenizers or data,
    and Busy where another process trains in that folder."""
    if config.extend is not None:
        return train_extension(config, open_extension(config), tell=tell)
    with at_work(config.run):
        manager = load_manager(config.modalities)
        modalities = config.load_modalities(manager)
        activate_kinds(modalities, manager, maskers=True)
        config.activate(manager, config.train)
        with processes(config.train, width=config.model.width):
            check_same(identity(modalities, manager))
            return _train(config, modalities, manager, tell)


def open_samples(
    config: RunConfig,
    modalities: Modalities,
    tokenizers: Mapping[str, Tokenizer],
    manager: PluginManager,
    *,
    training: bool = True,
) -> MaskedSamples:
    """The training samples of a run, or its held-out ones. Raises ValueError for data that cannot be used."""
    return MaskedSamples.from_config(
        config.data,
        config.masking,
        modalities,
        tokenizers,
        modalities.vocabulary(),
        seed=config.seed,
        training=training,
        masker_class=manager.masker_class,
    )


def _train(config: RunConfig, modalities: Modalities, manager: PluginManager, tell: Tell) -> dict[str, float]:
    tokenizers = load_tokenizers(config.tokenizers.folder, modalities.token_spaces, manager, modalities=modalities)
    manager.freeze()
    held_out = (
        open_samples(config, modalities, tokenizers, manager, training=False) if config.data.val is not None else None
    )
    training = open_samples(config, modalities, tokenizers, manager)
    first_only(tell)(training.store.describe())
    if held_out is not None:
        first_only(tell)(held_out.store.describe())
        held_out[0]  # samples that no component of the mixture suits are better known now than after training
    task = FourMTask(
        modalities,
        tokenizers,
        config.model,
        training,
        held_out,
        loss=config.loss,
        workers=config.data.workers,
        picture=pictures_of(config.train, modalities, config.data, config.evaluate),
    )
    # Only then: a config that the run's checkpoints refuse must not take the place of the one they were made with.
    return Trainer(task, config.train, config.run, seed=config.seed, host=manager, accepted=config.store).run()

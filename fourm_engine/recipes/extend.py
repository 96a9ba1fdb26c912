"""`fourm extend` and `fourm train` of a config with an `extend` section: from an `Extension` whose tokenizers are there
to a trained, exported model and its report."""

from __future__ import annotations

from fourm_engine.data.samples import MaskedSamples
from fourm_engine.extend.mixture import asking, extended, known, only, showing
from fourm_engine.extend.source import Extension
from fourm_engine.extend.task import ExtendTask
from fourm_engine.lock import at_work
from fourm_engine.masking.config import MaskingConfig
from fourm_engine.recipes.config import RunConfig
from fourm_engine.train.distributed import processes, rank
from fourm_engine.train.loop import Trainer
from fourm_plugins.manager import PluginManager
from fourm_plugins.tokenizer import Tokenizer


def open_extension(config: RunConfig, manager: PluginManager | None = None) -> Extension:
    """The extension that a config describes. Raises ValueError where it names no held-out data, or as
    `Extension.open`."""
    assert config.extend is not None
    if config.data.val is None:
        raise ValueError("data.val is not set: what is gained and forgotten is measured on held-out samples; set it")
    return Extension.open(config.extend, config.modalities, config.model, config.tokenizers.folder, manager)


def train_extension(config: RunConfig, extension: Extension) -> dict[str, float]:
    """Train, or continue; returns the last held-out scores.

    Raises ValueError for what a user can mend: a tokenizer that is not fitted, data without a new modality."""
    with at_work(config.run), processes(config.train):
        extension.check_same()
        return _train(config, extension)


def _train(config: RunConfig, extension: Extension) -> dict[str, float]:
    settings, new = extension.settings, extension.new
    tokenizers = extension.tokenizers()
    cases = {"known": known(config.masking, new)}
    for case, components in (
        ("new", [c for spec in new for c in asking(config.masking, spec)]),
        ("given new", [c for spec in new for c in showing(spec, new)]),
    ):
        if components:  # not every modality can be asked for, or shown
            cases[case] = only(config.masking, components)
    training = _data(config, extension, tokenizers, extended(config.masking, new, settings.replay_share), training=True)
    held_out = {case: _data(config, extension, tokenizers, masking, training=False) for case, masking in cases.items()}
    tell(training, next(iter(held_out.values())))
    task = ExtendTask(
        extension,
        tokenizers,
        training,
        held_out,
        steps=config.train.steps,
        loss=config.loss,
        workers=config.data.workers,
    )
    return Trainer(task, config.train, config.run, seed=config.seed, accepted=config.store).run()


def tell(*parts: MaskedSamples | None) -> None:
    """Print how many samples of which split are used, in the first process."""
    for part in parts:
        if part is not None and rank() == 0:
            print(part.store.describe(), flush=True)


def _data(
    config: RunConfig,
    extension: Extension,
    tokenizers: dict[str, Tokenizer],
    masking: MaskingConfig,
    *,
    training: bool,
) -> MaskedSamples:
    modalities = extension.training
    data = MaskedSamples.from_config(
        config.data,
        masking,
        modalities,
        {name: tokenizers[name] for name in modalities if name in tokenizers},
        extension.vocabulary,
        seed=config.seed,
        training=training,
        masker_class=extension.manager.masker_class,
    )
    for spec in extension.new:
        if not any(spec.name in data.store.has(name) for name in data.store.names):
            where = "data.train" if training else "data.val"
            raise ValueError(f"{where} has no sample of {spec.name!r}: no usable file below {spec.source}/, no tokens")
    return data

"""Training an extension: from an `Extension` whose tokenizers are there to a trained, exported model and its report."""

from __future__ import annotations

from fourm_engine.data.training import TrainingData
from fourm_engine.extend.mixture import asking, extended, known, only, showing
from fourm_engine.extend.source import Extension
from fourm_engine.extend.task import ExtendTask
from fourm_engine.lock import at_work
from fourm_engine.masking.config import MaskingConfig
from fourm_engine.train.distributed import processes, rank
from fourm_engine.train.loop import Trainer
from fourm_plugins.tokenizer import Tokenizer


def train_extension(extension: Extension) -> dict[str, float]:
    """Train, or continue; returns the last held-out scores.

    Raises ValueError for what a user can mend: a tokenizer that is not fitted, data without a new modality."""
    extension.config.activate(extension.manager, extension.config.train)
    with at_work(extension.config.run), processes(extension.config.train):
        extension.check_same()
        return _train(extension)


def _train(extension: Extension) -> dict[str, float]:
    config, settings, new = extension.config, extension.settings, extension.new
    tokenizers = extension.tokenizers()
    cases = {"known": known(config.masking, new)}
    for case, components in (
        ("new", [c for spec in new for c in asking(config.masking, spec)]),
        ("given new", [c for spec in new for c in showing(spec, new)]),
    ):
        if components:  # not every modality can be asked for, or shown
            cases[case] = only(config.masking, components)
    training = _data(extension, tokenizers, extended(config.masking, new, settings.replay_share), training=True)
    held_out = {case: _data(extension, tokenizers, masking, training=False) for case, masking in cases.items()}
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
    return Trainer(
        task, config.train, config.run, seed=config.seed, host=extension.manager, accepted=config.store
    ).run()


def tell(*parts: TrainingData | None) -> None:
    """Print how many samples of which split are used, in the first process."""
    for part in parts:
        if part is not None and rank() == 0:
            print(part.describe(), flush=True)


def _data(
    extension: Extension, tokenizers: dict[str, Tokenizer], masking: MaskingConfig, *, training: bool
) -> TrainingData:
    modalities = extension.training
    data = TrainingData.from_config(
        extension.config.data,
        masking,
        modalities,
        {name: tokenizers[name] for name in modalities if name in tokenizers},
        extension.vocabulary,
        seed=extension.config.seed,
        training=training,
        masker_class=extension.manager.masker_class,
    )
    for spec in extension.new:
        if not any(spec.name in data.has(name) for name in data.names):
            where = "data.train" if training else "data.val"
            raise ValueError(f"{where} has no sample of {spec.name!r}: no usable file below {spec.source}/, no tokens")
    return data

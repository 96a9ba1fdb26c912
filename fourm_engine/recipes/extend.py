"""Implements `fourm extend`: adds modalities to a trained model, from fitting their tokenizers to the report."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from fourm_engine import exported
from fourm_engine.data.samples import MaskedSamples
from fourm_engine.data.sets import data_sets
from fourm_engine.evaluate.run_pictures import pictures_of
from fourm_engine.extend.mixture import as_input, as_target, extended, known, only
from fourm_engine.extend.report import FILE, Report
from fourm_engine.extend.source import Extension, find_model
from fourm_engine.extend.task import ExtendTask
from fourm_engine.masking.config import MaskingConfig
from fourm_engine.recipes import started
from fourm_engine.recipes.agreement import check_agreement
from fourm_engine.recipes.config import CONFIG, RunConfig, leave_out_missing, parse_config
from fourm_engine.recipes.fit import RawData, fit_space
from fourm_engine.recipes.overrides import apply_overrides
from fourm_engine.recipes.progress import PrintFn, first_only, print_line
from fourm_engine.recipes.tokenize import tokenize_data
from fourm_engine.train.distributed import processes, sum_numbers
from fourm_engine.train.loop import Trainer
from fourm_engine.train.watchdog import exclusive_run
from fourm_engine.yaml_config import read_yaml
from fourm_plugins.manager import PluginManager
from fourm_plugins.tokenizer import Tokenizer


def extension_config(
    run: str, overrides: Sequence[str] = (), *, add: list[str], train: str, out: Path | None, config: Path | None
) -> RunConfig:
    """The config of the new run: the old one's, with the model's modalities and shape, `extend` and the overrides.

    Args:
        run: folder of a finished run or an exported model, or a Hub id.
        add: the new modalities.
        train: which weights are trained, as in `ExtendConfig`.
        out: folder of the new run; by default RUN-<names>-<train>.
        config: instead of RUN/config.yaml.

    Raises ValueError if the model or the config is missing, or the folder holds something else."""
    folder = find_model(run)
    saved = exported.read_config(folder)
    path = config or Path(run) / CONFIG
    if not path.is_file():
        raise ValueError(f"{path}: no such file; name the config that says where the data is with --config")
    raw = read_yaml(path)
    missing = started.relocate(raw, path)
    raw["run"] = str(out or f"{str(run).rstrip('/')}-{'-'.join(add)}-{train}")
    # A given config may set more of `extend`; in the run's own config, the section belongs to an earlier extension.
    raw["extend"] = {**((config and raw.get("extend")) or {}), "source": run, "add": add, "train": train}
    if "model" not in raw:
        raw["model"] = saved.model.model_dump(mode="json")
    modalities = raw["modalities"] = dict(raw.get("modalities") or {})
    modalities["select"] = [*saved.modalities, *add]
    trained: dict[str, Any] = {name: {"plugin": m.plugin, **m.settings} for name, m in saved.modalities.items()}
    modalities["settings"] = trained | dict(modalities.get("settings") or {})
    apply_overrides(raw, overrides)
    leave_out_missing(raw, path, missing, overrides, ("data.train", "data.val"))
    settings = parse_config(raw, str(path))
    _check_out(settings.run, {Path(run), folder})
    return settings


def _check_out(out: Path, taken: set[Path]) -> None:
    if out.resolve() in {path.resolve() for path in taken}:
        raise ValueError(f"--out {out}: holds the model to extend; choose another folder")
    if not out.exists() or (out.is_dir() and all(path.name.startswith(".") for path in out.iterdir())):
        return
    if not (out / CONFIG).is_file() or read_yaml(out / CONFIG).get("extend") is None:
        raise ValueError(f"--out {out}: exists, and is not a run of `fourm extend`; choose another folder")


def extend(config: RunConfig, *, print_fn: PrintFn = print_line) -> Report:
    """Fit the tokenizers of new token spaces, write missing tokens, train, and compare the predictions before and
    after. Resumes when called again.

    `config`: with an `extend` section, from `extension_config`. Raises ValueError for problems that a user can fix."""
    with exclusive_run(config.run, config.train.watchdog_s):
        extension = open_extension(config)
        with processes(config.train, width=config.model.width):  # joined once for all steps
            check_agreement(config, extension.modalities, extension.manager)
            config.activate(extension.manager, config.train, *map(config.tokenizers.fit_of, extension.unfitted))
            if spaces := extension.unfitted:
                raw = RawData.open(config, extension.modalities)
                raw.check_same()
                for space in spaces:
                    fit_space(config, extension.manager, extension.modalities, space, raw, print_fn=print_fn)
            modalities, tokenizers = extension.training, extension.tokenizers()
            sets = [one.config for one in data_sets(config.data, modalities)]
            # Remote tokens cannot be written here.
            if any(one.folder is not None and isinstance(one.tokens, Path) for one in sets):
                present = {name: tokenizers[name] for name in modalities if name in tokenizers}
                tokenize_data(config, modalities, present, print_fn=print_fn)
                sum_numbers([0.0])  # a barrier: no process reads tokens before all are written
            train_extension(config, extension, print_fn=print_fn)
        # The first process has written the report before training ends in any process.
        return Report.load(config.run / FILE)


def open_extension(config: RunConfig, manager: PluginManager | None = None) -> Extension:
    """The extension that a config describes. Raises ValueError if there is no held-out data, and as `Extension.open`
    does."""
    assert config.extend is not None
    if config.data.val is None:
        raise ValueError("data.val is not set: held-out samples measure what is gained and forgotten; set it")
    return Extension.open(config.extend, config.modalities, config.model, config.tokenizers.folder, manager)


def train_extension(
    config: RunConfig, extension: Extension, *, print_fn: PrintFn = print_line, replay: Path | None = None
) -> dict[str, float]:
    """Train, or continue, an extension whose tokenizers are fitted; returns the last held-out scores.

    Raises ValueError for problems that a user can fix: an unfitted tokenizer, data without a new modality."""
    config.activate(extension.manager, config.train)
    held = exclusive_run(config.run, config.train.watchdog_s) if replay is None else nullcontext()
    with held, processes(config.train, width=config.model.width):
        check_agreement(config, extension.modalities, extension.manager)
        trainer = _trainer(config, extension, print_fn)
        return trainer.run() if replay is None else trainer.replay(replay, print_fn)


def _trainer(config: RunConfig, extension: Extension, print_fn: PrintFn) -> Trainer:
    settings, new = extension.settings, extension.new
    tokenizers = extension.tokenizers()
    masking = config.masking.counted(extension.training.specs)
    cases = {"known": known(masking, new)}
    for case, components in (
        ("new", [c for spec in new for c in as_target(masking, spec)]),
        ("given new", [c for spec in new for c in as_input(spec, new)]),
    ):
        if components:  # some modalities cannot be targets, or inputs
            cases[case] = only(masking, components)
    training = _data(config, extension, tokenizers, extended(masking, new, settings.replay_share), training=True)
    held_out = {case: _data(config, extension, tokenizers, mixture, training=False) for case, mixture in cases.items()}
    for part in (training, next(iter(held_out.values()))):
        first_only(print_fn)(part.store.describe())
    task = ExtendTask(
        extension,
        tokenizers,
        training,
        held_out,
        steps=config.train.plan(training.masking.sample_tokens).steps,
        loss=config.loss,
        workers=config.data.workers,
        picture=pictures_of(config.train, extension.training, config.data, config.evaluate),
    )
    return Trainer(task, config.train, config.run, seed=config.seed, host=extension.manager, accepted=config.store)


def _data(
    config: RunConfig, extension: Extension, tokenizers: dict[str, Tokenizer], masking: MaskingConfig, *, training: bool
) -> MaskedSamples:
    config, modalities = config.model_copy(update={"masking": masking}), extension.training
    present = {name: tokenizers[name] for name in modalities if name in tokenizers}
    data = config.open_samples(modalities, present, extension.manager, extension.vocabulary, training=training)
    for spec in extension.new:
        if not any(spec.name in kind for kind in data.store.kinds()):
            where = "data.train" if training else "data.val"
            raise ValueError(f"{where} has no sample with {spec.name!r}: no usable file in {spec.source}/, no tokens")
    return data

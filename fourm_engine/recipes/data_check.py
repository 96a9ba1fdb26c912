"""Implements `fourm data check`: checks a whole data set."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fourm_engine.data.checks.check import DataCheck, check_data
from fourm_engine.data.checks.findings import Finding
from fourm_engine.data.checks.part import Wanted
from fourm_engine.data.checks.sources import trusted_shards
from fourm_engine.data.checks.tokens import Files, TokenCheck
from fourm_engine.data.raw.available import with_data
from fourm_engine.data.raw.documents import documented
from fourm_engine.data.raw.names import shown
from fourm_engine.data.raw.plugin_root import PluginRoot
from fourm_engine.data.raw.root import DataRoot, data_root
from fourm_engine.data.sets import all_sets
from fourm_engine.data.splits import SPLITS, Split, read_split, unused_lists
from fourm_engine.data.tokens.indexing import has_tokens
from fourm_engine.data.views import ViewDrawer
from fourm_engine.modalities import Modalities, ModalitiesConfig, load_manager, load_modalities
from fourm_engine.recipes.config import RunConfig, load_config
from fourm_engine.recipes.progress import PrintFn, Progress, print_line
from fourm_engine.storage.location import Location
from fourm_engine.storage.url import Url, scheme_of
from fourm_engine.tokenizers.store import load_fitted
from fourm_engine.yaml_config import ConfigError, apply_override, configs_beside, validated
from fourm_plugins.errors import one_line
from fourm_plugins.manager import PluginManager
from fourm_plugins.tokenizer import Tokenizer

log = logging.getLogger(__name__)


def check_config(config: RunConfig, *, seed: int = 0, print_fn: PrintFn = print_line, **reading: Any) -> DataCheck:
    """Check `data.train`, `data.val` and `data.tokens` of a config. `print_fn` receives progress; `seed` and `reading`
    say which samples are read, by how many processes, as in `check_data`.

    Raises ValueError for a config without data, and for plugins that cannot be used."""
    data = config.data
    manager = load_manager(config.modalities)
    modalities = config.load_modalities(manager)
    wanted, tokens, unused_splits, all_held_out = [], [], list[Finding](), False
    for one in all_sets(data, modalities):
        name, folder = one.name, one.config.tokens
        split = Split.from_config(one.config, training=one.training, host=manager)
        if one.training and (unused := unused_lists(one.config, one.key)) is not None:
            unused_splits.append(Finding("settings", "note", *unused, part=name))
        all_held_out |= one.training and split.held_out is None
        if isinstance(split.root, Location) or isinstance(folder, Url):
            raise ValueError(f"{one.key}: {split.root or folder} is remote; check a local copy, which reads every file")
        if split.root is not None and (isinstance(split.root, PluginRoot) or split.root.is_dir()):
            held_out = split.held_out or frozenset()  # all samples: reported below
            choose = None if split.share is None else split.select
            part = Wanted(name, split.root, split.listed, held_out, "val", split.name, split.shards, choose)
            wanted.append(replace(part, modalities=modalities | dict(one.modalities)))
        elif split.root is not None:
            log.warning("%s: %s is not there", one.key, split.root)
        if folder is not None:
            tokens.append((name, folder / one.part))
    if not wanted and not tokens:
        raise ValueError("neither data.train, data.val nor data.tokens is there: name the folder of the samples")
    spaces = modalities.token_spaces
    tokenizers, unusable = load_fitted(config.tokenizers.folder, spaces, manager, modalities=modalities)
    texts = {name: t for name, t in tokenizers.items() if modalities[name].spec.layout.kind == "sequence"}
    check = DataCheck([], modalities, seed=seed)
    if wanted:
        options: dict[str, Any] = {"seed": seed, "max_bytes": data.max_file_mb << 20, "tokenizers": texts}
        check = check_data(wanted, modalities, progress=lambda part: Progress(part, print_fn), **options, **reading)
    check.findings += unused_splits
    fitted = any((config.tokenizers.folder / space).exists() for space in spaces)
    for space, reason in unusable.items() if fitted or any(has_tokens(folder) for _, folder in tokens) else ():
        names = ", ".join(spec.name for spec in spaces[space])
        check.findings.append(Finding("tokens", "note", reason, f"needed to train on {names}", source=names))
    try:
        ViewDrawer.from_config(modalities, data, training=True)
    except ValueError as error:
        check.findings.append(Finding("settings", "problem", str(error)))
    if all_held_out:
        said = "data.val is the folder of data.train, without a split: every training sample is a held-out sample"
        check.findings.append(Finding("leak", "problem", said, "set data.train_split and data.val_split"))
    _check_tokens(tokens, check, modalities, tokenizers)
    return check


def check_folder(
    folder: Path | str, settings: ModalitiesConfig | None = None, *, print_fn: PrintFn = print_line, **reading: Any
) -> DataCheck:
    """Check a folder of data, the tars that match a pattern, or data opened by a package, with the installed modalities
    as configured by `settings`. The parts of a whole folder are its splits. `reading`: as for `check_config`.

    Raises ValueError if the folder does not exist or holds no data."""
    settings = settings or ModalitiesConfig()
    manager = load_manager(settings)
    there = DataRoot(PluginRoot(str(folder), manager), None) if scheme_of(folder) else data_root(folder)
    findings = list[Finding]()
    config = _config_of(there.folder) if isinstance(there.folder, Path) else None
    instead = f"check {shown(config)} instead, which says what reads each folder" if config else ""
    try:
        modalities = _installed(settings, manager, there, findings)
    except ValueError as error:
        raise ValueError(f"{error}; {instead}" if instead else str(error)) from None
    parts = _parts(there, findings)
    check = check_data(parts, modalities, progress=lambda part: Progress(part, print_fn), **reading)
    check.findings += findings
    if instead:
        check.findings = [replace(one, remedy=instead) if one.kind == "unread" else one for one in check.findings]
    return check


def _config_of(folder: Path) -> Path | None:
    """The one of `configs_beside` that trains on `folder`."""
    for path in configs_beside(folder):
        try:
            train = load_config(path, needed=()).data.train
        except ValueError:  # another document
            continue
        if isinstance(train, Path) and train.resolve() == folder.resolve():
            return path
    return None


def settings_of(overrides: Sequence[str]) -> ModalitiesConfig:
    """The `modalities` section given by overrides, to read a folder without a config. Raises ConfigError."""
    raw: dict[str, Any] = {}
    for override in overrides:
        if not override.startswith("modalities."):
            raise ConfigError(f"{override}: a folder has no config; only modalities.… can be set, or give a config")
        apply_override(raw, override)
    return validated(ModalitiesConfig, raw.get("modalities", {}), "modalities: ")


def _installed(
    settings: ModalitiesConfig, manager: PluginManager, there: DataRoot, findings: list[Finding]
) -> Modalities:
    """The modalities with data there. One whose required settings are missing is reported in `findings`."""
    chosen, root = settings, there.folder
    if settings.select == "installed":
        names = {p.name for p in manager.plugins if p.kind == "modality" and p.state in ("ok", "conflict")}
        names |= {name for name, given in settings.settings.items() if given.get("plugin", name) in names}
        usable = []
        for name in sorted(names):
            one = settings.model_copy(update={"select": [name]})
            try:
                load_modalities(one, manager)
                usable.append(name)
            except ValueError as error:
                said = f"{name} is not checked: {one_line(error)}"
                findings.append(Finding("settings", "note", said, "give its settings", source=name))
        chosen = settings.model_copy(update={"select": usable})
    modalities = load_modalities(chosen, manager)
    if isinstance(root, Path) and (documents := documented(modalities, chosen.settings, [root])):
        given = {name: {**chosen.settings.get(name, {}), **more} for name, more in documents.items()}
        chosen = chosen.model_copy(update={"settings": {**chosen.settings, **given}})
        modalities = load_modalities(chosen, manager)
    if settings.select != "installed":
        return modalities
    try:
        return with_data(modalities, [there])
    except ValueError:  # perhaps because of a shard, which the check will name
        if not isinstance(root, Path):
            raise
        return with_data(modalities, [DataRoot(root, tuple(trusted_shards(root, modalities, there.shards)[0]))])


def _parts(there: DataRoot, findings: list[Finding]) -> list[Wanted]:
    root = there.folder
    assert not isinstance(root, Location)  # refused before
    if there.shards is not None:
        return [Wanted("all", root, shards=there.shards)]
    if isinstance(root, PluginRoot):
        listed = {name: root.split(name) for name in sorted(root.splits)}
    elif not (path := root / SPLITS).is_file():
        return [Wanted("all", root)]
    else:
        try:
            document = json.loads(path.read_bytes())
            names = sorted(document) if isinstance(document, dict) else []
            listed = {name: read_split(path, name) for name in names}
        except (ValueError, OSError, RecursionError) as error:
            findings.append(Finding("settings", "problem", f"{path}: {error}", "training with a split ends there"))
            listed = {}
    if not listed:
        return [Wanted("all", root)]
    parts, before = list[Wanted](), frozenset[str]()
    for name, samples in listed.items():
        parts.append(Wanted(name, root, samples, before, " or ".join(p.name for p in parts), name))
        before |= samples
    return parts


def _check_tokens(
    folders: Iterable[tuple[str, Path]], check: DataCheck, modalities: Modalities, tokenizers: Mapping[str, Tokenizer]
) -> None:
    """Check the token shards of each part. `folders`: (part, its token folder, which need not exist)."""
    parts = {part.name: part for part in check.parts}
    for name, folder in folders:
        if not has_tokens(folder):
            continue
        files = dict[str, Files]()
        for key, readers in parts[name].readers.items() if name in parts else ():
            part = parts[name]
            digests = zip(part.names_read, part.survey.rows[key]["digest"].tolist())
            having = frozenset(itertools.compress(part.names, part.present[key]))
            one = Files({n: digest for n, digest in digests if digest}, having, part.opened.sources[key].stamp)
            files |= dict.fromkeys(readers, one)
        tokens = TokenCheck(folder, name, modalities, tokenizers, files)
        check.tokens += tokens.entries
        check.findings += tokens.findings


def check_tokens(folder: Path) -> DataCheck:
    """Check a token folder on its own, such as `data.tokens` of a config or its train/: all shards must be complete and
    consistent. Raises ValueError if there are no tokens."""
    folders = _token_folders(folder)
    if not folders:
        raise ValueError(f"{folder}: holds no tokens, nor do train/ and val/ in it; run `fourm tokenize`")
    check = DataCheck([], {})
    for one in folders:
        tokens = TokenCheck(one, one.name, {}, {}, {})
        check.tokens += tokens.entries
        check.findings += tokens.findings
    return check


def is_tokens(folder: Path) -> bool:
    """Whether a folder, or its train/ or val/, holds tokens."""
    return bool(_token_folders(folder))


def _token_folders(folder: Path) -> list[Path]:
    return [path for path in (folder, folder / "train", folder / "val") if has_tokens(path)]

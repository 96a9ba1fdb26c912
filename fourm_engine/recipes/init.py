"""Implements `fourm init`: writes a config that suits a folder and this machine."""

from __future__ import annotations

import math
import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from fourm_engine.data.config import DataConfig
from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.raw.local_sources import open_source
from fourm_engine.data.raw.names import shown
from fourm_engine.data.raw.survey import TRAIN, VAL, Survey, survey, unpack_tables
from fourm_engine.data.splits import SPLITS, Split, drawn, read_split, samples_of, split_names
from fourm_engine.device import Machine
from fourm_engine.files import write_atomically
from fourm_engine.recipes.config import RunConfig, parse_config
from fourm_engine.recipes.proposal import Chosen, Sizes, config_text, described
from fourm_engine.storage.url import scheme_of
from fourm_engine.yaml_config import read_value
from fourm_plugins.counting import counted
from fourm_plugins.manager import PluginManager

#: Fraction of the samples to hold out, and their maximum number.
HELD_OUT, MOST_HELD_OUT = 0.1, 1000


@dataclass(frozen=True)
class InitReport:
    """The config that was written, and lines about the folder's content."""

    path: Path
    config: RunConfig
    lines: list[str]


def init(
    folder: Path, *, out: Path | None = None, force: bool = False, unpack: bool = False, machine: Machine | None = None
) -> InitReport:
    """Inspect `folder` and write a config for it.

    Args:
        out: the file; by default the folder's name with .yaml, in the working directory.
        force: replace an existing file.
        unpack: first write the texts of tables (JSON lines, JSON, CSV, TSV) to folders of text files.
        machine: the machine to size the model for; by default this one.

    Raises ValueError if the folder holds no usable data, or the file exists."""
    name = "".join(c if c.isprintable() else "_" for c in Path(os.path.abspath(folder)).name) or "data"
    out = Path(f"{name}.yaml") if out is None else Path(out)
    if out.exists() and not force:
        raise ValueError(f"{out}: already exists; choose another name with --out, or replace it with --force")
    if scheme_of(str(folder)) is not None and not Path(folder).exists():
        raise ValueError(
            f"{folder}: not a folder to look at; make one of it (fourm data unpack '{folder}' FOLDER), or name it in a "
            f"config, as data.train: {folder}"
        )
    manager = PluginManager()
    unpacked = unpack_tables(Path(folder), manager) if unpack else []
    surveyed = survey(Path(folder), manager)
    chosen = choose_split(surveyed)
    machine = machine or Machine.detect()
    sizes = Sizes.fitting(surveyed, chosen.train, machine)
    run = f"runs/{out.stem}"
    folders = {"run": run, "tokens": f"{run}/tokens", "tokenizers": f"{run}/tokenizers"}
    command = f"fourm init {shlex.quote(str(folder))}"
    text = config_text(surveyed, chosen, sizes, machine, folders=folders, command=command)
    config = parse_config(read_value(text, str(out)), str(out))
    modalities = config.load_modalities(manager)
    AlignedData.from_config(modalities, config.data, training=True).check_usable(modalities)
    if config.data.val is not None:
        AlignedData.from_config(modalities, config.data, training=False)
    write_atomically(out, text)
    return InitReport(out, config, [*unpacked, *_told(surveyed, chosen, sizes), *_next(out, config, machine)])


def choose_split(surveyed: Survey) -> Chosen:
    """The held-out samples: as defined by the data (folders, lists), otherwise a fraction drawn by name."""
    train = {"train": (str(surveyed.train), "folder of the samples; paths are relative to the working directory")}
    names = surveyed.samples
    if surveyed.val is not None:
        sources = {(f.source, f.modality.spec.extensions) for f in surveyed.matches}
        opened = [open_source(surveyed.val, *key) for key in sources]
        number = len(frozenset().union(*(source.names for source in opened if source is not None)))
        keys = train | {"val": (str(surveyed.val), "folder of the held-out samples, which are never trained on")}
        if number:
            return Chosen(keys, len(names), number, f"{counted(number, 'sample')} in {shown(surveyed.val)} held out")
    if (listed := surveyed.train / SPLITS).is_file():
        return _by_lists(train, listed, names)
    parts = {name.partition("/")[0] for name in names if "/" in name}
    if any(map(TRAIN.fullmatch, parts)) and (val := sorted(filter(VAL.fullmatch, parts))):
        number = sum(name.partition("/")[0] in val for name in names)
        said = f"{counted(number, 'sample')} below {', '.join(map(shown, val))} held out"
        return Chosen(train | {"held_out": (val, f"{said}: never trained on")}, len(names) - number, number, said)
    if len(names) < 2:
        return Chosen(train, len(names), 0, "nothing is held out: there is one sample")
    share = held_out_share(names)
    number = sum(drawn(name) < share for name in names)
    said = f"there is no {SPLITS}: {number} of {counted(len(names), 'sample')}, drawn by name, held out"
    why = f"share of names, by a hash of each, that is never trained on: {number} of {len(names)}"
    if len({name.rstrip("0123456789") for name in names}) == 1:
        said += "; frames of one video are alike: list others in splits.json if these are"
    return Chosen(train | {"held_out": (share, why)}, len(names) - number, number, said)


def held_out_share(names: frozenset[str]) -> float:
    """The shortest fraction, nearest to 0.1, with which `drawn` holds out a tenth of the names, at least one and at
    most 1,000. From a hundred names on, the number may deviate by a tenth for the sake of a shorter fraction."""
    wanted = max(1, min(MOST_HELD_OUT, round(HELD_OUT * len(names))))
    numbers, most = sorted(map(drawn, names)), min(wanted + wanted // 10, MOST_HELD_OUT, len(names) - 1)
    low, high = numbers[wanted - wanted // 10 - 1], numbers[most]  # more than the first, up to the second
    for scale in (10**digits for digits in range(1, 12)):
        least, largest = math.floor(low * scale) + 1, math.floor(high * scale)
        if least <= largest:
            return min(max(round(HELD_OUT * scale), least), largest) / scale
    return (low + high) / 2


def _by_lists(train: dict[str, tuple[str, str]], path: Path, names: frozenset[str]) -> Chosen:
    lists = split_names(path)
    members = {name: len(frozenset(samples_of(read_split(path, name), names).values())) for name in lists}
    usable = [name for name in lists if members[name]]
    if not usable:
        raise ValueError(f"{shown(path)}: none of its samples is in the folder; correct or remove it")
    training = next(filter(TRAIN.fullmatch, usable), None) or max(usable, key=lambda name: members[name])
    others = [name for name in usable if name != training]
    val = next(filter(VAL.fullmatch, others), None) or (others[0] if len(others) == 1 else None)
    keys: dict[str, tuple[str, str]] = dict(train)
    why = f"list of {SPLITS} that is trained on; other lists: {', '.join(map(shown, others)) or 'none'}"
    if val is not None:
        keys["val"] = str(path.parent), "folder of the held-out samples"
    keys["train_split"] = training, why
    if val is None:
        said = f"{shown(path)}: trained on list {shown(training)}; no list is held out"
        return Chosen(keys, members[training], 0, said)
    keys["val_split"] = val, f"list of {SPLITS} that is held out: never trained on"
    data = DataConfig.model_validate({key: value for key, (value, _) in keys.items()})
    number = len(Split.from_config(data, training=True, host=PluginManager()).select(names, quiet=True))
    said = (
        f"{shown(path)}: trained on list {shown(training)}, list {shown(val)} of "
        f"{counted(members[val], 'sample')} is held out"
    )
    return Chosen(keys, number, members[val], said)


def _told(surveyed: Survey, chosen: Chosen, sizes: Sizes) -> list[str]:
    lines = []
    for one in surveyed.matches:
        where = shown(surveyed.train if one.source == "." else surveyed.train / one.source)
        looked = f" ({one.looked} looked at)" if one.looked < len(one.samples) else ""
        rivals = f"; may also be {', '.join(one.rivals)}" if one.rivals else ""
        lines.append(f"{one.name}: {counted(len(one.samples), 'sample')} in {where}{looked}: {described(one)}{rivals}")
    if len({one.modality.spec.files for one in surveyed.matches}) > 1:
        total = counted(len(surveyed.samples), "sample")
        lines.append(f"{total} in all, {surveyed.paired} with more than one modality")
    length = f"training: {counted(sizes.steps, 'step')} of {sizes.batch}, {sizes.shows(chosen.train)}"
    return [*lines, chosen.said, length, *(f"note: {note}" for note in surveyed.notes)]


def _next(out: Path, config: RunConfig, machine: Machine) -> list[str]:
    name = shlex.quote(str(out))
    jobs = "" if machine.gpu or machine.cores < 2 else f" --jobs {min(machine.cores, 8)}"
    steps = [f"fourm data check {name}", f"fourm tokenizer fit {name}{jobs}"]
    steps += [f"fourm tokenize {name}", f"fourm train {name}"]
    if config.data.val is not None:
        steps.append(f"fourm evaluate {shlex.quote(str(config.run))}")
    return [f"wrote {out}; read it, then run", *(f"  {step}" for step in steps)]

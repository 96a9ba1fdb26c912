"""The folder in which a run was started, which is the base of relative paths in its stored config.

`<run>/started.json` lies beside `<run>/config.yaml`. Paths are resolved against, in this order: the starting folder at
its position relative to the run, in case both were moved or copied together with the data; the starting folder itself;
the run's folder; the working directory.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from fourm_engine.data.raw.pipes import copies, spool_folder
from fourm_engine.data.raw.root import PIPE, is_there
from fourm_engine.files import read_object, write_atomically
from fourm_engine.storage.url import Url, parse, scheme_of

log = logging.getLogger(__name__)
NAME = "started.json"
#: Keys of a config that hold paths, except `run`.
PATHS = ("data.train", "data.val", "data.tokens", "tokenizers.folder", "extend.source", "finetune.source")
MAX_BYTES = 1 << 16


def is_stored(path: Path) -> bool:
    """Whether a run stored this config."""
    return (path.parent / NAME).is_file()


def record(run: Path) -> None:
    """Record the working directory in the run's folder."""
    write_atomically(run / NAME, json.dumps({"folder": os.getcwd()}) + "\n")


def relocate(raw: dict[str, Any], path: Path, keys: Collection[str] = PATHS) -> dict[str, list[Path]]:
    """Resolve the paths in `raw`, the content of the config at `path`, relative to the working directory; `run` becomes
    the file's folder. Only changes a config that a run stored. Logs a line for each path outside the working directory.
    Returns key -> the candidates tried, for paths that do not exist."""
    started = _read(path.parent / NAME)
    if started is None or not isinstance(raw.get("run"), str):
        return {}
    here = Path(os.path.abspath(path.parent))
    moved = Path(os.path.normpath(here / os.path.relpath(started, started / raw["run"])))
    bases = list(dict.fromkeys([moved, started, here, Path.cwd()]))
    raw["run"] = str(path.parent)
    missing = {}
    for key, holder, name in paths_in(raw, keys):
        text = holder[name]
        if scheme := scheme_of(text):
            holder[name] = f"{scheme}:{_moved(text[len(scheme) + 1 :], started, bases)}"
            continue
        if text.startswith(PIPE) or isinstance(parse(text), Url):
            continue
        below = Path(text).relative_to(started) if Path(text).is_relative_to(started) else Path(text)
        tried = list(dict.fromkeys(base / below for base in bases))  # an absolute path is itself below any base
        existing = next((candidate for candidate in tried if is_there(candidate)), None)
        if existing is None:
            missing[key] = tried
        elif existing != Path.cwd() / text:
            holder[name] = str(existing)
            log.info("%s: %s is %s", path, key, existing)
    return missing | _without_commands(raw)


def _moved(text: str, started: Path, bases: list[Path]) -> str:
    """A package's source, with its settings, moved if it is an existing path; otherwise unchanged."""
    location, mark, settings = text.partition("?")
    below = Path(location).relative_to(started) if Path(location).is_relative_to(started) else Path(location)
    there = next((base / below for base in bases if (base / below).exists()), None)
    return text if there is None or there == Path.cwd() / location else f"{there}{mark}{settings}"


def _without_commands(raw: dict[str, Any]) -> dict[str, list[Path]]:
    """Replace commands by the stored copies of their output, since the config may come from somebody else."""
    missing: dict[str, list[Path]] = {}
    for key, holder, name in paths_in(raw, ("data.train", "data.val")):
        text, tokens = holder[name], holder.get("tokens")
        if text.startswith(PIPE):
            folder = spool_folder(text, Path(tokens) if isinstance(tokens, str) else None)
            if folder.is_dir() and all(tar.is_file() for tar in copies(text, folder)):
                holder[name] = str(folder)
            else:
                missing[key] = [folder]
    return missing


def paths_in(raw: dict[str, Any], keys: Collection[str]) -> list[tuple[str, dict[str, Any], str]]:
    """(key, the mapping or list that holds it, its key there) for each path that is set, including those in a list of
    data sets."""
    paths = []
    for key in keys:
        section, _, name = key.partition(".")
        holder = raw[section] if isinstance(raw.get(section), dict) else {}
        if isinstance(entries := holder.get(name), list):
            for index, entry in enumerate(entry for entry in entries if isinstance(entry, dict)):
                paths += [(f"{key}.{index}.{part}", entry, part) for part in ("path", "tokens")]
        else:
            paths.append((key, holder, name))
    return [(key, holder, name) for key, holder, name in paths if isinstance(holder.get(name), str)]


def nowhere(path: Path, key: str, tried: list[Path]) -> str:
    """The error message for a path that `relocate` did not find."""
    return f"{path}: {key}: not found, neither {' nor '.join(map(str, tried))}; say where it is: {key}=FOLDER"


def _read(path: Path) -> Path | None:
    if not path.is_file():
        return None
    remedy = "remove it, and give paths as overrides"
    folder = read_object(path, most=MAX_BYTES, what="where the run was started", remedy=remedy).get("folder")
    if not isinstance(folder, str) or not os.path.isabs(folder):
        raise ValueError(f"{path}: says where the run was started, but not by an absolute path; {remedy}")
    return Path(folder)

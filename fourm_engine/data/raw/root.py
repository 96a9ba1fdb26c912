"""Locations that `data.train` and `data.val` accept: a folder, tars, commands that print tars, or a package's source.

data/train                             a folder
data/train/shard-{00000..00099}.tar    some of its tars, each with all modalities
pipe:curl -sf https://…/{00..09}.tar   output of commands, copied to a folder once; see `pipes`
table:data/photos?setting=value         opened by the installed source of that name; see `plugin_root`
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from fourm_engine.data.raw.names import shown
from fourm_engine.data.raw.plugin_root import PluginRoot
from fourm_engine.storage.location import Location, Readable
from fourm_engine.storage.url import scheme_of

PIPE = "pipe:"
#: Maximum number of paths that a pattern may expand to.
MAX_SHARDS = 1_000_000
_GROUP = re.compile(r"\{([^{}]*)\}")


#: Location of raw data.
Root = Readable | PluginRoot


class DataRoot(NamedTuple):
    folder: Root
    #: Relative paths of the tars to read; None: everything in `folder`.
    shards: tuple[str, ...] | None


def data_root(path: Readable | str) -> DataRoot:
    """Resolve a path or a pattern. Raises ValueError for a pattern that matches no tars, or names missing ones."""
    if isinstance(path, Location):
        return DataRoot(path, None)
    if str(path).startswith(PIPE):
        raise ValueError(f"{shown(path)}: a command, where a folder or tars are expected")
    if scheme_of(str(path)) is not None and not Path(path).exists():
        raise ValueError(f"{shown(path)}: opened by a package, where a folder or tars are expected")
    whole = Path(path)
    if whole.is_dir() or not is_pattern(path):
        return DataRoot(whole, None)
    paths = [whole] if whole.exists() else [Path(text) for text in expand(str(path))]
    for one in paths:
        if one.suffix.lower() != ".tar":
            raise ValueError(f"{shown(path)}: means {shown(one)}; name a folder, or tars such as shard-{{00..09}}.tar")
    folder = Path(os.path.commonpath([one.parent for one in paths]))
    missing = [one for one in paths if not one.is_file()]
    if missing and not folder.is_dir():
        return DataRoot(folder, None)  # reported by whoever needs it
    if missing:
        raise ValueError(f"{shown(path)}: {len(missing)} of {len(paths)} tars are missing, such as {shown(missing[0])}")
    return DataRoot(folder, tuple(sorted({one.relative_to(folder).as_posix() for one in paths})))


def is_pattern(path: Path | str) -> bool:
    """Whether a path that is not a folder is a tar or a pattern of tars."""
    return str(path).lower().endswith(".tar") or "{" in str(path)


def is_there(path: Path) -> bool:
    """Whether the folder or file, or the folder of the pattern, exists."""
    return path.exists() or (is_pattern(path) and Path(str(path).partition("{")[0] + "x").parent.is_dir())


def expand(pattern: str) -> list[str]:
    """Expand braces, as a shell does. Raises ValueError for more than `MAX_SHARDS` paths."""
    from braceexpand import braceexpand

    if _number(pattern) > MAX_SHARDS:  # the package creates all before it yields the first
        raise ValueError(f"{shown(pattern)}: stands for more than {MAX_SHARDS} paths")
    try:
        return list(braceexpand(pattern))
    except ValueError:
        raise ValueError(f"{shown(pattern)}: a brace is not closed, or not opened") from None


def _number(pattern: str) -> int:
    """An upper bound on the number of paths of a pattern."""
    total = 1
    while group := _GROUP.search(pattern):
        ends = re.fullmatch(r"(-?\d+)\.\.(-?\d+)(\.\.-?\d+)?", group[1])
        total *= abs(int(ends[2][:20]) - int(ends[1][:20])) + 1 if ends else max(1 + group[1].count(","), 1)
        if group[1].count("..") and not ends:
            total *= 128  # characters
        pattern = pattern[: group.start()] + pattern[group.end() :]
        if total > MAX_SHARDS:
            break
    return total

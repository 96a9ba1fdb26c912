"""What `data.train` and `data.val` may name: a folder, or tars of one, by a path or a pattern.

    data/train                          a folder
    data/train/shard-{00000..00099}.tar  these of its tars, each of which holds all modalities
    pipe:curl -sf https://…/{00..09}.tar  what commands print, copied to a folder once
"""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from fourm_engine.data.names import shown
from fourm_engine.storage.location import Location, Readable

#: Paths that a pattern may stand for.
MAX_SHARDS = 1_000_000


class DataRoot(NamedTuple):
    folder: Readable
    #: Paths below it, of the tars to read; None: all that lies there.
    shards: list[str] | None


def data_root(path: Readable | str) -> DataRoot:
    """Raises ValueError for a pattern that stands for no tars, or for some that are not there."""
    if isinstance(path, Location):
        return DataRoot(path, None)
    whole = Path(path)
    if whole.is_dir() or not (str(path).lower().endswith(".tar") or "{" in str(path)):
        return DataRoot(whole, None)
    paths = [whole] if whole.exists() else [Path(text) for text in expand(str(path))]
    for one in paths:
        if one.suffix.lower() != ".tar":
            raise ValueError(f"{shown(path)}: stands for {shown(one)}; name a folder, or tars such as shard-{{00..09}}.tar")
    missing = [one for one in paths if not one.is_file()]
    if missing:
        raise ValueError(
            f"{shown(path)}: {len(missing)} of {len(paths)} tars are not there, such as {shown(missing[0])}"
        )
    folder = Path(os.path.commonpath([one.parent for one in paths]))
    return DataRoot(folder, sorted({one.relative_to(folder).as_posix() for one in paths}))


def expand(pattern: str) -> list[str]:
    """What a pattern with braces stands for, as in a shell. Raises ValueError for too much."""
    from braceexpand import UnbalancedBracesError, braceexpand

    try:
        found = list(islice(braceexpand(pattern), MAX_SHARDS + 1))
    except UnbalancedBracesError:
        raise ValueError(f"{shown(pattern)}: a brace is not closed") from None
    if len(found) > MAX_SHARDS:
        raise ValueError(f"{shown(pattern)}: stands for more than {MAX_SHARDS} paths")
    return found

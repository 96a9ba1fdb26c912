"""ShardFiles: the open files of token shards. Every read of a row goes through here, and no more than some are open."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from fourm_engine.data.index import BYTES, TIME, Index
from fourm_engine.data.shards import open_shard, row_of

#: Files that a process keeps open: some tens of shards, read in turns, of some modalities each.
OPEN_FILES = 256


class ShardFiles:
    """The files of the shards of `index`, opened by each process when it first needs them; the last `limit` that were
    used stay open. They are no part of the pickled state."""

    def __init__(self, index: Index, *, limit: int = OPEN_FILES) -> None:
        self.index, self.limit = index, limit
        self._open: OrderedDict[tuple[int, int], tuple[Path, Any]] = OrderedDict()

    def get(self, part: int, shard: int) -> tuple[Path, Any]:
        """The open file of a part, a position in `index.parts`, of a shard, and its path for messages. Raises
        ValueError where it is damaged, or not the one that was indexed."""
        key = part, shard
        if key in self._open:
            self._open.move_to_end(key)
        else:
            self._open[key] = self._fetch(part, shard)
            while len(self._open) > self.limit:
                self._open.popitem(last=False)  # dropping the object unmaps the file
        return self._open[key]

    def row(self, part: int, shard: int, column: str, row: int) -> np.ndarray:
        """One row of a column. Raises ValueError."""
        path, file = self.get(part, shard)
        return row_of(path, file, column, row)

    def _fetch(self, part: int, shard: int) -> tuple[Path, Any]:
        path, known = self.index.path(part, shard), self.index.files[shard, part]
        file = open_shard(path)
        stat = path.stat()
        if (stat.st_size, stat.st_mtime_ns) != (int(known[BYTES]), int(known[TIME])):
            raise ValueError(
                f"{path}: has changed while it was in use; start again (a run goes on from its last checkpoint)"
            )
        return path, file

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}

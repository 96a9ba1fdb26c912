"""ShardFiles: the open files of token shards. Every read of a row goes through here, and no more than some are open."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np

from fourm_engine.data.tokens.index import BYTES, CONTENT, INDEX_FOLDER, TIME, Index
from fourm_engine.data.tokens.shards import column_of, digest, open_shard, row_of, stored_names_digest
from fourm_engine.data.tokens.view_shards import views_content
from fourm_engine.storage.location import Location, Readable, Shard

#: Files that a process keeps open: some tens of shards, read in turns, of some modalities each.
OPEN_FILES = 256


class ShardFiles:
    """The files of the shards of `index`, opened by each process when it first needs them; the last `limit` that were
    used stay open. They are no part of the pickled state."""

    def __init__(self, index: Index, *, limit: int = OPEN_FILES) -> None:
        self.index, self.limit = index, limit
        self._open: OrderedDict[tuple[int, int], tuple[Readable, Any]] = OrderedDict()

    def get(self, part: int, shard: int) -> tuple[Readable, Any]:
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

    def ahead(self, parts: Sequence[int], shards: Sequence[int]) -> None:
        """Copy these parts of these shards in the background, where they are remote."""
        if isinstance(folder := self.index.folder, Location):
            files = [(part, shard) for shard in shards for part in parts if self.index.files[shard, part, BYTES]]
            known = [int(self.index.files[shard, part, BYTES]) for part, shard in files]
            folder.ahead(Shard(self.index.below(*file), size) for file, size in zip(files, known))

    def _fetch(self, part: int, shard: int) -> tuple[Readable, Any]:
        path, known = self.index.path(part, shard), self.index.files[shard, part]
        if isinstance(path, Location):
            file = open_shard(path, int(known[BYTES]))
            if not self._fits(path, file, part, shard):
                raise ValueError(
                    f"{path}: holds something else than {self.index.folder / INDEX_FOLDER} says; run `fourm tokenize` "
                    f"on the local tokens, upload all of them again"
                )
            return path, file
        file = open_shard(path)
        stat = path.stat()
        if (stat.st_size, stat.st_mtime_ns) != (int(known[BYTES]), int(known[TIME])):
            raise ValueError(
                f"{path}: has changed while it was in use; start again (a run goes on from its last checkpoint)"
            )
        if not self._fits(path, file, part, shard):
            raise ValueError(
                f"{path}: holds something else than {self.index.folder / INDEX_FOLDER} says; remove that folder and "
                f"start again, which makes it anew"
            )
        return path, file

    def _fits(self, path: Readable, file: Any, part: int, shard: int) -> bool:
        """Whether an open shard holds the samples and the content that were indexed: another one may have the same size
        and time."""
        index, (samples, names) = self.index, (int(number) for number in self.index.shards[shard, 1:])
        content = int(index.files[shard, part, CONTENT])
        if not part:
            return stored_names_digest(path, file, samples) == names and views_content(path, file, samples) == content
        if (file.metadata() or {}).get("rows") != f"{names:016x}":
            return False
        digests, present = column_of(path, file, "digest", (samples,)), index.present[index.rows_of(shard)]
        there = present >> present.dtype.type(part - 1) & present.dtype.type(1) != 0
        return digest(digests.tobytes()) == content and np.array_equal(there, digests != 0)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}

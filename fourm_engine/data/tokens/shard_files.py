"""ShardFiles: the open files of token shards. Every read of a row goes through it, and it limits how many are open."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fourm_engine.data.tokens.index import BYTES, CONTENT, INDEX_FOLDER, TIME, Index
from fourm_engine.data.tokens.shards import (
    ANEW,
    check_whole,
    column_of,
    digest,
    open_shard,
    row_of,
    stored_names_digest,
)
from fourm_engine.data.tokens.view_shards import views_content
from fourm_engine.storage.location import Location, Readable
from fourm_engine.storage.mapped import AGAIN, MappedFile
from fourm_engine.storage.read_ahead import RECENT
from fourm_engine.storage.remote import Shard

#: Number of files that a process keeps mapped, without a descriptor: 64 lanes of a window of 4 shards and 7 modalities
#: each, which take turns. Each takes 21 KB, and counts towards the kernel's limit of 65,530 maps.
OPEN_FILES = 2048

_OTHER = "holds something else than its index says; run `fourm tokenize` on the local tokens, upload all of them again"


class ShardFiles:
    """The files of the shards of `index`, opened lazily by each process; the `limit` most recently used stay open. They
    are not pickled."""

    def __init__(self, index: Index, *, limit: int = OPEN_FILES) -> None:
        self.index, self.limit = index, limit
        self._open: OrderedDict[tuple[int, int], tuple[Readable, Any, MappedFile | None]] = OrderedDict()
        self._told: OrderedDict[tuple[int, int], None] = OrderedDict()

    def get(self, part: int, shard: int) -> tuple[Readable, Any]:
        """The open file of a part, an index into `index.parts`, of a shard, and its path for messages. Raises
        ValueError if it is damaged, is not the one that was indexed, or has been changed since."""
        key = part, shard
        if key in self._open:
            self._open.move_to_end(key)
            path, file, mapped = self._open[key]
            if mapped is not None:
                mapped.check()
        else:
            path, file, _ = self._open[key] = self._fetch(part, shard)
            while len(self._open) > self.limit:
                self._open.popitem(last=False)  # deleting the object unmaps the file
        return path, file

    def row(self, part: int, shard: int, column: str, row: int) -> np.ndarray:
        """One row of a column. Raises ValueError."""
        path, file = self.get(part, shard)
        return row_of(path, file, column, row)

    def ahead(self, parts: Sequence[int], shards: Sequence[int], *, now: bool = False) -> None:
        """Copy these parts of these shards in the background, if they are remote. now: they are needed next."""
        if isinstance(folder := self.index.folder, Location):
            files = ((part, shard) for shard in shards for part in parts if self.index.files[shard, part, BYTES])
            keys = [key for key in files if key not in self._open and (now or key not in self._told)]
            for key in keys[: folder.ahead((self._known(*key) for key in keys), now=now)]:
                self._told[key] = None
            while len(self._told) > RECENT:
                self._told.popitem(last=False)

    def _known(self, part: int, shard: int) -> Shard:
        """The index's entry for a file."""
        known, (samples, names) = self.index.files[shard, part], (int(n) for n in self.index.shards[shard, 1:])
        content = int(known[CONTENT])
        return Shard(
            self.index.below(part, shard),
            int(known[BYTES]),
            f"index:{names:016x}{content:016x}",
            _Holds(not part, samples, names, content),
        )

    def _fetch(self, part: int, shard: int) -> tuple[Readable, Any, MappedFile | None]:
        path, known = self.index.path(part, shard), self.index.files[shard, part]
        if isinstance(path, Location):
            indexed = self._known(part, shard)
            file = open_shard(path, indexed)
            if not self._fits(path, file, part, shard):
                raise ValueError(f"{path}: {_OTHER}")
            copy = path.local(*indexed[1:])  # the same copy, which is not evicted yet
            return path, file, None if copy is None else MappedFile(copy, copy.stat(), timed=False)
        file = open_shard(path)
        stat = path.stat()
        if (stat.st_size, stat.st_mtime_ns) != (int(known[BYTES]), int(known[TIME])):
            raise ValueError(f"{path}: has changed while it was in use; {AGAIN}")
        if not self._fits(path, file, part, shard):
            where = self.index.folder / INDEX_FOLDER
            raise ValueError(f"{path}: holds something else than {where} says; remove that folder and start again")
        return path, file, MappedFile(path, stat, cut=ANEW)

    def _fits(self, path: Readable, file: Any, part: int, shard: int) -> bool:
        """Whether an open shard has the samples and the content that were indexed: another one may have the same size
        and time."""
        index, (samples, names) = self.index, (int(number) for number in self.index.shards[shard, 1:])
        if not _Holds(not part, samples, names, int(index.files[shard, part, CONTENT])).agrees(path, file):
            return False
        if not part:
            return True
        there = index.has(index.parts[part], index.rows_of(shard))
        return np.array_equal(there, column_of(path, file, "digest", (samples,)) != 0)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict(), "_told": OrderedDict()}


@dataclass(frozen=True)
class _Holds:
    """The contents of a shard according to its index."""

    views: bool
    samples: int
    names: int
    content: int

    def __call__(self, copy: Path) -> None:
        """Raise ValueError for a copy with other contents, or whose bytes are not those that were written."""
        try:
            file = open_shard(copy)
        except ValueError:
            raise ValueError("damaged, or no token shard; upload it again") from None
        if not self.agrees(copy, file):
            raise ValueError(_OTHER)
        check_whole(copy, file)

    def agrees(self, path: Readable, file: Any) -> bool:
        if self.views:
            names, content = stored_names_digest(path, file, self.samples), views_content(path, file, self.samples)
            return (names, content) == (self.names, self.content)
        if (file.metadata() or {}).get("rows") != f"{self.names:016x}":
            return False
        return digest(column_of(path, file, "digest", (self.samples,)).tobytes()) == self.content

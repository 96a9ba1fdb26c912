"""ShardFiles: the open files of token shards. Every read of a row goes through it, and it limits how many are open.
RecordedViews: the views in them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fourm_engine.data.tokens.index import BYTES, CONTENT, INDEX_FOLDER, TIME, Index
from fourm_engine.data.tokens.shards import ANEW, ShardFile, digest
from fourm_engine.data.tokens.view_shards import ViewShard
from fourm_engine.data.views import SampleViews
from fourm_engine.storage.location import Location
from fourm_engine.storage.mapped import AGAIN, MappedFile
from fourm_engine.storage.read_ahead import RECENT
from fourm_engine.storage.remote import Shard

#: Number of files that a process keeps mapped, without a descriptor: 64 lanes of a window of 4 shards and 7 modalities
#: each, which take turns. Each takes 21 KB, and counts towards the kernel's limit of 65,530 maps.
OPEN_FILES = 2048

_OTHER = "holds something else than its index says; run `fourm tokenize` on the local tokens, upload all of them again"


class ShardFiles:
    """The files of the shards of `index`, opened lazily by each process; the `OPEN_FILES` most recently used stay open.
    They are not pickled."""

    def __init__(self, index: Index) -> None:
        self.index = index
        self._open: OrderedDict[tuple[int, int], tuple[ShardFile, MappedFile | None]] = OrderedDict()
        self._told: OrderedDict[tuple[int, int], None] = OrderedDict()

    def get(self, part: int, shard: int) -> ShardFile:
        """The open file of a part, an index into `index.parts`, of a shard. Raises ValueError if it is damaged, is not
        the one that was indexed, or has been changed since."""
        key = part, shard
        if key in self._open:
            self._open.move_to_end(key)
            file, mapped = self._open[key]
            if mapped is not None:
                mapped.check()
        else:
            file, _ = self._open[key] = self._fetch(part, shard)
            while len(self._open) > OPEN_FILES:
                self._open.popitem(last=False)  # deleting the object unmaps the file
        return file

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
        known, holds = self.index.files[shard, part], self._holds(part, shard)
        identity = f"index:{holds.names:016x}{holds.content:016x}"
        return Shard(self.index.below(part, shard), int(known[BYTES]), identity, holds)

    def _holds(self, part: int, shard: int) -> _Holds:
        samples, names = (int(number) for number in self.index.shards[shard, 1:])
        return _Holds(not part, samples, names, int(self.index.files[shard, part, CONTENT]))

    def _fetch(self, part: int, shard: int) -> tuple[ShardFile, MappedFile | None]:
        path, known = self.index.path(part, shard), self.index.files[shard, part]
        kind = ShardFile if part else ViewShard
        if isinstance(path, Location):
            indexed = self._known(part, shard)
            file = kind(path, indexed)
            if not self._fits(file, part, shard):
                raise ValueError(f"{path}: {_OTHER}")
            copy = path.local(*indexed[1:])  # the same copy, which is not evicted yet
            return file, None if copy is None else MappedFile(copy, copy.stat(), timed=False)
        file = kind(path)
        stat = path.stat()
        if (stat.st_size, stat.st_mtime_ns) != (int(known[BYTES]), int(known[TIME])):
            raise ValueError(f"{path}: has changed while it was in use; {AGAIN}")
        if not self._fits(file, part, shard):
            where = self.index.folder / INDEX_FOLDER
            raise ValueError(f"{path}: holds something else than {where} says; remove that folder and start again")
        return file, MappedFile(path, stat, cut=ANEW)

    def _fits(self, file: ShardFile, part: int, shard: int) -> bool:
        """Whether an open shard has the samples and the content that were indexed: another one may have the same size
        and time."""
        index, holds = self.index, self._holds(part, shard)
        if not holds.agrees(file):
            return False
        there = index.has(index.parts[part], index.rows_of(shard)) if part else None
        return there is None or np.array_equal(there, file.column("digest", holds.samples) != 0)

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
            file = ViewShard(copy) if self.views else ShardFile(copy)
        except ValueError:
            raise ValueError("damaged, or no token shard; upload it again") from None
        if not self.agrees(file):
            raise ValueError(_OTHER)
        file.check_whole()

    def agrees(self, file: ShardFile) -> bool:
        if isinstance(file, ViewShard):
            return (file.names_digest(self.samples), file.content(self.samples)) == (self.names, self.content)
        if file.metadata.get("rows") != f"{self.names:016x}":
            return False
        return digest(file.column("digest", self.samples).tobytes()) == self.content


class RecordedViews:
    """The views of the samples of `index`, recorded by `fourm tokenize`."""

    def __init__(self, index: Index, files: ShardFiles) -> None:
        self.index, self.files, self.views, self.groups = index, files, index.views, index.groups

    def get(self, name: str, number: int) -> SampleViews:
        """Raises KeyError for an unknown sample, ValueError for a damaged shard."""
        row = self.index.names.row(name)
        if row is None:
            raise KeyError(name)
        shard, at = self.index.locate(row)
        file = self.files.get(0, shard)
        assert isinstance(file, ViewShard)
        return {group: file.view(group, at, number) for group in self.groups}

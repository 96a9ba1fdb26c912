"""Sources that read a data set through its index, without a scan, and without an object per sample."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from fourm_engine.data.columns import DamagedColumn
from fourm_engine.data.names_table import ENCODING, Names, NameTable
from fourm_engine.data.raw.file_bytes import close_below
from fourm_engine.data.raw.index import INDEX, Damaged, DataIndex, View
from fourm_engine.data.raw.names import plain, shown
from fourm_engine.data.raw.notes import Note
from fourm_engine.data.raw.sample_shards import Claim, Key
from fourm_engine.data.raw.shard_scan import content
from fourm_engine.data.raw.source import FileSource, LooseFiles, ShardMembers
from fourm_engine.data.raw.tar_members import Content
from fourm_engine.storage.location import Location
from fourm_engine.storage.remote import Shard
from fourm_plugins.errors import SampleError


class Maps:
    """The memory-mapped columns of a view. Pickled as the path of the index. Raises Damaged if the columns are
    inconsistent."""

    def __init__(self, index: DataIndex, view: View) -> None:
        self._made_from = index, view
        self.root, self.odd = index.root, index.odd
        self.members = index.columns()
        self.view = view.stored.open(index.root / INDEX)
        self.shards = [(name, shard.stamp) for name, shard in index.shards.items()]
        self.paths = [index.root / name for name, _ in self.shards]
        self.firsts = np.array([shard.first for shard in index.shards.values()], np.int64)
        try:
            columns = ("offsets", "blob", "hashes", "order")
            self.names = NameTable.from_arrays({column: self.view[f"names.{column}"] for column in columns})
            for number in range(len(view.claims)):
                starts, files, extensions = (self.view[f"{number}.{c}"] for c in ("starts", "files", "extensions"))
                if len(starts) != len(self.names) + 1 or not int(starts[-1]) == len(files) == len(extensions):
                    raise ValueError("columns of different lengths")
            _check_paths(self.names)
        except (KeyError, ValueError) as error:
            raise Damaged(f"{view.stored.folder}: {str(error).partition('; ')[0]}") from None

    def __reduce__(self) -> tuple[Any, ...]:
        index, view = self._made_from
        return Maps, (DataIndex(index.root, index.shards, index.odd, [], index.members, index.called), view)

    def shard_of(self, row: int) -> int:
        """The index in `shards` of a member's shard."""
        return int(np.searchsorted(self.firsts, row, side="right")) - 1

    def member(self, row: int) -> tuple[int, Content]:
        """(index of the shard, content) of a member."""
        begin, end = (int(at) for at in self.members["offsets"][row : row + 2])
        path = self.members["paths"][begin:end].tobytes().decode(*ENCODING)
        start, size, header = (int(self.members[column][row]) for column in ("starts", "sizes", "headers"))
        return self.shard_of(row), content(path, start, size, row, header, self.odd.get(row))

    def loose(self, number: int) -> str:
        """Path of a loose file, relative to the root."""
        begin, end = (int(at) for at in self.view["loose.offsets"][number : number + 2])
        path = self.view["loose.blob"][begin:end].tobytes().decode(*ENCODING)
        if path.startswith("/") or ".." in path.split("/"):
            raise ValueError(f"{path!r} is not a path below the data")
        return path

    def __del__(self) -> None:
        if not sys.is_finalizing():
            close_below(self.root)


class IndexedSource(FileSource):
    """The samples of claim `number` of a view."""

    def __init__(self, maps: Maps, number: int, key: Key, notes: Sequence[Note], max_bytes: int) -> None:
        self.maps, self.number, self.max_bytes = maps, number, max_bytes
        self.source, self.extensions = key
        self.notes = list(notes)
        columns = (maps.view[f"{number}.{column}"] for column in ("starts", "files", "extensions"))
        self._starts, self._files, self._extensions = columns

    def __reduce__(self) -> tuple[Any, ...]:
        return IndexedSource, (self.maps, self.number, (self.source, self.extensions), self.notes, self.max_bytes)

    @property
    def present(self) -> np.ndarray:
        """bool (n,), which samples have a file."""
        return self._starts[1:] > self._starts[:-1]

    @property
    def names(self) -> Names:  # type: ignore[override]  # not stored: 8 bytes a sample and modality
        return Names(self.maps.names, np.flatnonzero(self.present))

    def sample(self, name: str) -> LooseFiles | ShardMembers:
        loose, shard, members = dict[str, str](), 0, dict[str, Content]()
        for file, extension in self._rows(name):
            try:
                if file < 0:
                    loose[self.extensions[extension]] = self.maps.loose(-1 - file)
                else:
                    shard, members[self.extensions[extension]] = self.maps.member(file)
            except DamagedColumn:
                raise
            except (IndexError, ValueError, TypeError) as error:
                raise SampleError(f"{INDEX} is damaged ({error}); run `fourm data index` again") from None
        if not members:
            return LooseFiles(self.maps.root, loose)
        return ShardMembers(self.maps.paths[shard], self.maps.shards[shard][1], members)

    def _rows(self, name: str) -> Iterator[tuple[int, int]]:
        """(row in `files`, index in `extensions`) of each file of a sample."""
        row = self.maps.names.row(name)
        if row is None:
            raise KeyError(name)
        for at in range(int(self._starts[row]), int(self._starts[row + 1])):
            yield int(self._files[at]), int(self._extensions[at])

    def ahead(self, names: Sequence[str], *, now: bool = False) -> None:
        """Prefetch the shards of samples in the background, if they are remote. now: they are needed next."""
        if isinstance(root := self.maps.root, Location):
            files = (file for name in names if name in self.maps.names for file, _ in self._rows(name) if file >= 0)
            shards = (self.maps.shards[number] for number in dict.fromkeys(map(self.maps.shard_of, files)))
            root.ahead((Shard(shard, stamp[0]) for shard, stamp in shards), now=now)

    def by_shard(self) -> dict[str | None, Sequence[str]]:
        rows = np.flatnonzero(self.present)
        files = self._files[self._starts[rows].astype(np.int64)].astype(np.int64)
        numbers = np.where(files < 0, -1, np.searchsorted(self.maps.firsts, files, side="right") - 1)
        units: dict[str | None, Sequence[str]] = {}
        for number in np.unique(numbers).tolist():
            path = self.maps.shards[number][0].removeprefix(f"{self.source}/") if number >= 0 else None
            units[path] = [*units.get(path, ()), *Names(self.maps.names, rows[numbers == number])]
        return units


def _check_paths(names: NameTable) -> None:
    """Raise ValueError for a name that is not a relative path inside a folder: files are written under these names."""
    offsets, blob = np.asarray(names.offsets, np.int64), np.asarray(names.blob)
    starts = offsets[:-1][np.diff(offsets) > 0]
    if (blob[starts] == ord("/")).any() or (b".." in blob.tobytes() and any(".." in name.split("/") for name in names)):
        raise ValueError("a sample whose name leads elsewhere")


def indexed_sources(
    index: DataIndex, view: View, claims: Sequence[Claim], max_bytes: int
) -> tuple[Maps, dict[Key, IndexedSource]]:
    """The columns, and the sources of those `claims` that have data. Raises Damaged."""
    maps, sources = Maps(index, view), {}
    keys = [claim.key for claim in view.claims]
    for claim in claims:
        number = keys.index(claim.key)
        source = IndexedSource(maps, number, claim.key, renamed(index, view.notes[number]), max_bytes)
        if source.present.any():
            sources[claim.key] = source
    return maps, sources


def renamed(index: DataIndex, notes: Sequence[Note]) -> list[Note]:
    """The notes, with the root's current name."""
    if not index.called:
        return list(notes)
    today = shown(index.root)
    return [Note(kind, *(plain(part.replace(index.called, today)) for part in parts)) for kind, *parts in notes]

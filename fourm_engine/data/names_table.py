"""NameTable: a large number of names in a few arrays, without a Python object per name. Maps rows to names, and names
to rows by bisection on 64-bit hashes, verified against the name. A table saved as columns is opened instantly through
memory maps, and is sent to another process as a path.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np

from fourm_engine.data.columns import Entries, map_column
from fourm_engine.storage.location import Readable
from fourm_plugins.counting import counted

#: Number of rows converted to Python integers at a time.
CHUNK = 1 << 16
#: Column -> allowed kinds of its dtype.
_COLUMNS = {"offsets": "iu", "blob": "u", "hashes": "u", "order": "iu"}
# Names may contain lone surrogates (file names that are not UTF-8). Sorted by these bytes, names are in `str` order.
ENCODING = ("utf-8", "surrogatepass")


def joined(encoded: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """(int64 (n + 1,): offset of each name, and the end of the last; uint8: the names' bytes, concatenated)."""
    offsets = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)), out=offsets[1:])
    return offsets, np.frombuffer(b"".join(encoded), np.uint8)


class LazyNames(Sequence[str]):
    """A sequence of names that are created on access."""

    @abstractmethod
    def name(self, row: int) -> str:
        """The name of a row, 0 <= row < len(self)."""

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return list(map(self.name, range(len(self))[row]))
        return self.name(range(len(self))[row])

    def __iter__(self) -> Iterator[str]:
        return map(self.name, range(len(self)))


class NameTable(LazyNames):
    """Names of rows 0 … n - 1.

    Args:
        offsets: int64 (n + 1,): name `row` is `blob[offsets[row]:offsets[row + 1]]`, in UTF-8.
        blob: uint8.
        hashes: uint64 (n,), sorted.
        order: int64 (n,), the row of each hash; rows of equal hashes in ascending order.

    Raises ValueError for inconsistent arrays."""

    def __init__(self, offsets: Entries, blob: Entries, hashes: Entries, order: Entries) -> None:
        self.offsets, self.blob, self.hashes, self.order = offsets, blob, hashes, order
        self._saved: tuple[Readable, Mapping[str, list[int]]] | None = None
        self._last: tuple[str | None, int | None] = None, None  # last lookup; all modalities of a sample repeat it
        n = len(offsets) - 1
        if n < 0 or len(hashes) != n or len(order) != n or int(offsets[0]) != 0 or int(offsets[-1]) != len(blob):
            raise ValueError(f"a table of {n} names whose columns do not belong together")

    @classmethod
    def build(cls, names: Iterable[str]) -> NameTable:
        encoded = [name.encode(*ENCODING) for name in names]
        hashes = np.fromiter(map(_hash, encoded), np.uint64, len(encoded))
        order = np.argsort(hashes, kind="stable").astype(np.int64)
        return cls(*joined(encoded), hashes[order], order)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Entries]) -> NameTable:
        """Inverse of `arrays`. Raises ValueError."""
        if missing := sorted(_COLUMNS.keys() - arrays.keys()):
            raise ValueError(f"a table of names without {missing[0]}")
        return cls(**{column: arrays[column] for column in _COLUMNS})

    def arrays(self) -> dict[str, Entries]:
        """{column: array}."""
        return {column: getattr(self, column) for column in _COLUMNS}

    @classmethod
    def open(cls, folder: Readable, checks: Mapping[str, list[int]] | None = None) -> NameTable:
        """The table whose columns are `folder/names.<column>.npy`, by memory maps. checks: name of each file -> its
        checksums. Raises ValueError for damaged or missing columns; see `map_column`."""
        files = {column: f"names.{column}" for column in _COLUMNS}
        sums = {name: checks[name] for name in files.values()} if checks else {}
        table = cls.from_arrays(
            {
                column: map_column(folder / f"{name}.npy", _COLUMNS[column], checks=sums.get(name))
                for column, name in files.items()
            }
        )
        table._saved = folder, sums
        return table

    def __reduce__(self) -> tuple[Any, ...]:
        if self._saved is not None:
            return NameTable.open, self._saved
        return NameTable, (self.offsets, self.blob, self.hashes, self.order)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def name(self, row: int) -> str:
        """The name of a row, 0 … n - 1. Raises IndexError for any other, and ValueError for a table that is damaged."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {counted(len(self), 'name')}")
        try:
            return self._bytes(row).decode(*ENCODING)
        except UnicodeDecodeError as error:
            raise self._damaged(error) from None

    def _bytes(self, row: int) -> bytes:
        if row >= len(self):
            raise self._damaged(f"row {row} of {counted(len(self), 'name')}")
        start, end = int(self.offsets[row]), int(self.offsets[row + 1])
        if not 0 <= start <= end <= len(self.blob):
            raise self._damaged(f"name {row} lies outside of them")
        return self.blob[start:end].tobytes()

    def _damaged(self, why: object) -> ValueError:
        where = f"{self._saved[0]}: " if self._saved is not None else ""
        return ValueError(f"{where}damaged names ({why!s:.80}); remove this folder, and it is made anew")

    def row(self, name: str) -> int | None:
        """The row of a name (the first, if it occurs several times), or None."""
        last = self._last
        if name != last[0]:
            self._last = last = name, self._find(name)
        return last[1]

    def _find(self, name: str) -> int | None:
        encoded = name.encode(*ENCODING)
        value = np.uint64(_hash(encoded))
        return self._match(encoded, value, int(self.hashes.searchsorted(value)))

    def _match(self, encoded: bytes, value: np.uint64, at: int) -> int | None:
        """The first row of a name among those whose hash is `value`, the first of which is number `at`."""
        while at < len(self) and self.hashes[at] == value:
            row = int(self.order[at])
            if self._bytes(row) == encoded:
                return row
            at += 1
        return None

    def rows(self, names: Sequence[str]) -> np.ndarray:
        """int64 (len(names),): the row of each name, -1 for unknown names."""
        encoded = [name.encode(*ENCODING) for name in names]
        hashes = np.fromiter(map(_hash, encoded), np.uint64, len(encoded))
        rows = map(self._match, encoded, hashes, self.hashes.searchsorted(hashes).tolist())
        return np.array([-1 if row is None else row for row in rows], np.int64)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.row(name) is not None

    def __eq__(self, other: object) -> bool:
        if isinstance(other, NameTable):
            return np.array_equal(self.offsets, other.offsets) and np.array_equal(self.blob, other.blob)
        return isinstance(other, (list, tuple)) and len(self) == len(other) and all(map(str.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]


class Names(LazyNames):
    """A subset of a table's names, in its order: a sequence with lookups as fast as a set's. rows: int64, sorted and
    unique; None: all."""

    def __init__(self, table: NameTable, rows: np.ndarray | None = None) -> None:
        self.table = table
        self.rows = np.arange(len(table)) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, row: int) -> str:
        return self.table.name(int(self.rows[row]))

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self.rows), CHUNK):  # avoids creating all integer objects at once
            yield from map(self.table.name, self.rows[start : start + CHUNK].tolist())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.at(name) is not None

    def at(self, name: str) -> int | None:
        """The position of a name; None if it is absent."""
        row = self.table.row(name)
        at = -1 if row is None else int(np.searchsorted(self.rows, row))
        return at if 0 <= at < len(self.rows) and int(self.rows[at]) == row else None

    def minus(self, other: Names) -> Names:
        """The names that are not in `other`, a subset of the same table."""
        return Names(self.table, np.setdiff1d(self.rows, other.rows, assume_unique=True))

    def among(self, names: Collection[str]) -> Names:
        """The names that are in `names`."""
        if isinstance(names, Names) and names.table is self.table:
            rows = names.rows
        else:
            rows = np.unique(self.table.rows(list(names)))
        return Names(self.table, np.intersect1d(self.rows, rows, assume_unique=True))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Names) and other.table is self.table:
            return np.array_equal(self.rows, other.rows)
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(str.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]


def lines_of(names: Sequence[str]) -> bytes:
    """`"\\n".join(names)` in UTF-8, without an object per name for a subset of a table."""
    if not isinstance(names, Names) or not len(names):
        return "\n".join(names).encode(*ENCODING)
    offsets, blob = np.asarray(names.table.offsets, np.int64), np.asarray(names.table.blob)
    if len(names) < len(names.table):
        used = np.zeros(len(names.table), bool)
        used[names.rows] = True
        lengths = np.diff(offsets)
        blob = blob[np.repeat(used, lengths)]
        offsets = np.concatenate([[0], np.cumsum(lengths[used])])
    return bytes(np.insert(blob, offsets[1:-1], ord("\n")))


def _hash(encoded: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(encoded, digest_size=8).digest(), "little")

"""Columns: .npy files, of which the small are read and all others mapped, so that many processes share them and none
holds a copy; and the JSON that says which there are. Both tell whether they are what was written, so that no damage is
ever read: a column is compared with its checksums when it is opened, a large one block by block, each when it is first
touched."""

from __future__ import annotations

import io
import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from fourm_engine.files import check_shortage, write_atomically
from fourm_engine.storage.location import Location, Readable
from fourm_engine.storage.mapped import MappedFile

#: Largest remote column to hold in memory if there is no cache.
MAX_BYTES = 1 << 34
#: Bytes of a file that share a checksum.
BLOCK = 1 << 18
#: Bytes of a column up to which it is read, and up to which it is compared as a whole when it is opened.
READ, SMALL = 1 << 20, 1 << 24


class DamagedColumn(ValueError):
    """A block of a column that is not what was written; the message names the file and the remedy."""


class Column:
    """A column of one dimension, mapped from a file. Whatever is read of it is compared with the checksums first:
    what is touched by an index, a slice or a bisection, and all of it by `numpy.asarray`.

    Raises DamagedColumn where it is not what was written."""

    ndim = 1

    def __init__(
        self, path: Readable, stored: Path, column: np.ndarray, stat: os.stat_result, checks: list[int] | None
    ) -> None:
        """`column`: the map of the file `stored`, of the state `stat`. `checks`: None once all of it was compared."""
        self.path, self._stored, self._column, self._checks = path, stored, column, checks or []
        self.dtype, self.shape = column.dtype, column.shape
        self._start = stat.st_size - column.nbytes
        self._unread = np.ones(len(self._checks), bool)
        timed = not self._checks and not isinstance(path, Location)  # else the checksums tell
        self._mapped = MappedFile(stored, stat, cut=self._remedy(), timed=timed, error=DamagedColumn)

    def __len__(self) -> int:
        return len(self._column)

    @property
    def checked(self) -> int:
        """Bytes that were compared so far."""
        return int((~self._unread).sum()) * BLOCK

    def __getitem__(self, key: Any) -> Any:
        self._mapped.check()
        if not self._checks:
            return self._column[key]
        if isinstance(key, slice):
            touched = range(len(self))[key]
            if touched:
                self._check(*sorted((touched[0], touched[-1])))
        elif isinstance(key, np.ndarray):
            rows = np.flatnonzero(key) if key.dtype == bool else key
            for block in np.unique(self._blocks(rows.astype(np.int64) % max(1, len(self)))).tolist():
                self._check_block(block)
        elif -len(self) <= key < len(self):
            self._check(at := key % len(self), at)
        return self._column[key]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        self._mapped.check()
        if self._checks:
            self._check(0, len(self) - 1)
        column = self._column if dtype is None else self._column.astype(dtype, copy=False)
        return column.copy() if copy else column

    def searchsorted(self, value: Any) -> Any:
        """Where a value, or each of several, belongs: before those that are equal."""
        if not self._checks or np.ndim(value):
            return np.asarray(self).searchsorted(value)
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if self[middle] < value else (low, middle)
        return low

    def _blocks(self, rows: Any) -> Any:
        # No entry lies in two blocks: it starts at a multiple of its size, a power of two, after a header of 64n bytes.
        return (self._start + rows * self.dtype.itemsize) // BLOCK

    def _check(self, first: int, last: int) -> None:
        """Of the rows from `first` to `last`."""
        for block in range(self._blocks(first), self._blocks(last) + 1):
            self._check_block(block)

    def _check_block(self, block: int) -> None:
        if not self._unread[block]:
            return
        try:
            same = _sum(self._stored, block) == self._checks[block]
        except OSError as error:
            check_shortage(error)
            raise DamagedColumn(f"{self.path}: {error.strerror}; {self._remedy()}") from None
        if not same:
            raise DamagedColumn(f"{self.path}: damaged (other content than was written); {self._remedy()}")
        self._unread[block] = False

    def _remedy(self) -> str:
        if isinstance(self.path, Location):
            return "upload the folder again, and empty the cache"
        return f"remove the folder {self.path.parent}, and it is made anew"


#: A column in memory, a map that was compared with its checksums, or one that is compared as it is read.
Entries = np.ndarray | Column


def save_column(path: Path, column: Entries) -> None:
    """Write a column whole or not at all. Raises CannotWrite."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(column), allow_pickle=False)
    write_atomically(path, buffer.getvalue())


def checksums(column: Entries) -> list[int]:
    """CRC-32 of each block of the file that `save_column` writes, of a column of one dimension."""
    header = io.BytesIO()
    column = np.ascontiguousarray(column)
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(column))
    content, first = memoryview(column.view(np.uint8).data if column.size else b""), header.getvalue()
    rest = BLOCK - len(first)
    sums = [zlib.crc32(content[:rest], zlib.crc32(first))]
    return sums + [zlib.crc32(content[start : start + BLOCK]) for start in range(rest, len(content), BLOCK)]


def open_column(path: Readable, kinds: str, checks: list[int] | None = None) -> np.ndarray:
    """Read a column of one dimension; a remote one through its copy, if there can be one. `kinds`: those of dtypes that
    it may have, such as "iu". `checks`: its checksums, all of which are compared.

    Raises ValueError, with the name of the file, for one that is missing, damaged or another column."""
    column = map_column(path, kinds, checks=checks)
    return np.array(column) if isinstance(column, Column) else column


def map_column(path: Readable, kinds: str, length: int | None = None, checks: list[int] | None = None) -> Entries:
    """As `open_column`, but a column of more than `READ` bytes is mapped, and of a large one the blocks are compared as
    they are read. Raises ValueError for what opening it shows."""
    stored = path.local() or io.BytesIO(path.read_bytes(MAX_BYTES)) if isinstance(path, Location) else path
    try:
        if isinstance(stored, Path):
            size = (stat := stored.stat()).st_size
            if size <= READ:
                stored = io.BytesIO(stored.read_bytes())
        if isinstance(stored, io.BytesIO):
            size = stored.getbuffer().nbytes
        if checks is not None:
            # All of a small column, of a large one the header, before it is parsed, and the end: it may have grown.
            blocks = range(len(checks)) if size <= SMALL or isinstance(stored, io.BytesIO) else {0, len(checks) - 1}
            if len(checks) != -(-size // BLOCK) or any(_sum(stored, block) != checks[block] for block in blocks):
                raise ValueError("other content than was written")
        column = np.load(stored, mmap_mode="r" if isinstance(stored, Path) else None, allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError, TypeError, OverflowError) as error:
        check_shortage(error)
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise ValueError(f"{path.name}: {why:.80}") from None
    if not isinstance(column, np.ndarray) or column.ndim != 1 or column.dtype.kind not in kinds:
        raise ValueError(f"{path.name}: no column of one dimension and the kinds {kinds!r}")
    if length is not None and len(column) != length:
        raise ValueError(f"{path.name}: {len(column)} entries instead of {length}")
    if not isinstance(stored, Path):
        return column
    entries = np.asarray(column).view(np.ndarray)  # the subclass is slow to index
    return Column(path, stored, entries, stat, checks if size > SMALL else None)


def _sum(stored: Path | io.BytesIO, block: int) -> int:
    """CRC-32 of a block of a file."""
    if isinstance(stored, io.BytesIO):
        return zlib.crc32(stored.getbuffer()[block * BLOCK : (block + 1) * BLOCK])
    # Read, not through the map: pages of a map that were touched count as memory of the process.
    with open(stored, "rb", buffering=0) as file:
        file.seek(block * BLOCK)
        return zlib.crc32(file.read(BLOCK))


class OtherVersion(ValueError):
    """A document that another version wrote: `older` or newer than this one."""

    def __init__(self, written: int, read: int) -> None:
        super().__init__(f"of another version (format {written:d}, this version reads {read})")
        self.older = written < read


def sealed(document: dict[str, Any], *, indent: int | None = None) -> str:
    """JSON with a checksum in it."""
    document = json.loads(json.dumps(document))  # as it is read: keys that are numbers sort otherwise
    return json.dumps({**document, "checksum": _seal(document)}, indent=indent) + "\n"


def unsealed(content: bytes, format: int) -> dict[str, Any]:
    """Inverse of `sealed`. Raises OtherVersion for another format, ValueError where it is not what was written."""
    document = json.loads(content)
    written = document["format"]
    if type(written) is int and written != format and abs(written) < 1 << 31:
        raise OtherVersion(written, format)
    if written != format:
        raise ValueError(f"of format {written!r:.20}, not {format}")
    if document.pop("checksum", None) != _seal(document):
        raise ValueError("other content than was written")
    return document


def _seal(document: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(document, sort_keys=True).encode())

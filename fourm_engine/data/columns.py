"""Columns: .npy files, and the JSON that lists them. Small ones are read into memory; the others are mapped, so that
processes share them. Both have checksums, so that damage is never read: a column is verified when it is opened, a large
one block by block, each on first access."""

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
from fourm_engine.storage.mapped import MappedArray, MappedFile

#: Largest remote column to hold in memory if there is no cache.
MAX_BYTES = 1 << 34
#: Bytes of a file that share a checksum.
BLOCK = 1 << 18
#: Maximum bytes of a column that is read into memory, and of one that is verified as a whole when it is opened.
READ, SMALL = 1 << 20, 1 << 24


class DamagedColumn(ValueError):
    """A block of a column does not match its checksum; the message names the file and the remedy."""


class Column(MappedArray):
    """A one-dimensional column, mapped from a file. Blocks are verified before they are read: those touched by an
    index, a slice or a bisection, and all of them by `numpy.asarray`. Raises DamagedColumn on a mismatch."""

    def __init__(
        self, path: Readable, stored: Path, column: np.ndarray, stat: os.stat_result, checks: list[int] | None
    ) -> None:
        """`column`: the map of the file `stored`; `stat`: its state. `checks`: None if all of it has been verified."""
        self.path, self._stored, self._checks = path, stored, checks or []
        self._start = stat.st_size - column.nbytes
        self._unread = np.ones(len(self._checks), bool)
        timed = not self._checks and not isinstance(path, Location)  # otherwise the checksums detect changes
        super().__init__(column, MappedFile(stored, stat, cut=self._remedy(), timed=timed, error=DamagedColumn))

    @property
    def checked(self) -> int:
        """Number of bytes verified so far."""
        return int((~self._unread).sum()) * BLOCK

    def __getitem__(self, key: Any) -> Any:
        self._mapped.check()
        if not self._checks:
            return self._array[key]
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
        return self._array[key]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        self._mapped.check()
        if self._checks:
            self._check(0, len(self) - 1)
        return super().__array__(dtype, copy)

    def searchsorted(self, value: Any) -> Any:
        """The first position at which each value can be inserted in order (`numpy.searchsorted`, side left)."""
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
        """Verify the blocks of the rows `first` to `last`, inclusive."""
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


#: A column in memory or mapped.
Entries = np.ndarray | Column


def save_column(path: Path, column: Entries) -> None:
    """Write a column atomically. Raises CannotWrite."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(column), allow_pickle=False)
    write_atomically(path, buffer.getvalue())


def checksums(column: Entries) -> list[int]:
    """CRC-32 of each block of the file that `save_column` writes for a one-dimensional column."""
    header = io.BytesIO()
    column = np.ascontiguousarray(column)
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(column))
    content, first = memoryview(column.view(np.uint8).data if column.size else b""), header.getvalue()
    rest = BLOCK - len(first)
    sums = [zlib.crc32(content[:rest], zlib.crc32(first))]
    return sums + [zlib.crc32(content[start : start + BLOCK]) for start in range(rest, len(content), BLOCK)]


def open_column(path: Readable, kinds: str, checks: list[int] | None = None) -> np.ndarray:
    """Read a one-dimensional column; a remote one through its cached copy, if there is a cache. `kinds`: the allowed
    kinds of dtypes, such as "iu". `checks`: its checksums, all of which are verified.

    Raises ValueError, naming the file, if it is missing or damaged, or another column."""
    column = map_column(path, kinds, checks=checks)
    return np.array(column) if isinstance(column, Column) else column


def map_column(path: Readable, kinds: str, length: int | None = None, checks: list[int] | None = None) -> Entries:
    """Like `open_column`, but maps a column of more than `READ` bytes, and verifies the blocks of one of more than
    `SMALL` as they are read. Raises ValueError for errors found on opening."""
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
    return Column(path, stored, column, stat, checks if size > SMALL else None)


def _sum(stored: Path | io.BytesIO, block: int) -> int:
    """CRC-32 of a block of a file."""
    if isinstance(stored, io.BytesIO):
        return zlib.crc32(stored.getbuffer()[block * BLOCK : (block + 1) * BLOCK])
    # Read, not through the map: pages of a map that were touched count as memory of the process.
    with open(stored, "rb", buffering=0) as file:
        file.seek(block * BLOCK)
        return zlib.crc32(file.read(BLOCK))


class OtherVersion(ValueError):
    """The document was written by another version, `older` or newer than this one."""

    def __init__(self, written: int, read: int) -> None:
        super().__init__(f"of another version (format {written:d}, this version reads {read})")
        self.older = written < read


def sealed(document: dict[str, Any], *, indent: int | None = None) -> str:
    """The document as JSON, with a checksum."""
    document = json.loads(json.dumps(document))  # as it is read: keys that are numbers sort otherwise
    return json.dumps({**document, "checksum": _seal(document)}, indent=indent) + "\n"


def unsealed(content: bytes, format: int) -> dict[str, Any]:
    """Inverse of `sealed`. Raises OtherVersion for another format, ValueError if the checksum does not match."""
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

"""Columns: .npy files read through memory maps, so that many processes share them and none holds a copy; and the JSON
that lists them. Both have checksums, so that damage is never read."""

from __future__ import annotations

import io
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from fourm_engine.files import write_atomically
from fourm_engine.storage.location import Location, Readable

#: Largest remote column to hold in memory if there is no cache.
MAX_BYTES = 1 << 34
_PIECE = 1 << 20


def save_column(path: Path, column: np.ndarray) -> None:
    """Write a column whole or not at all. Raises CannotWrite."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(column), allow_pickle=False)
    write_atomically(path, buffer.getvalue())


def checksum(column: np.ndarray) -> int:
    """CRC-32 of the file that `save_column` writes for a one-dimensional column."""
    header = io.BytesIO()
    column = np.ascontiguousarray(column)
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(column))
    return zlib.crc32(column.view(np.uint8).data if column.size else b"", zlib.crc32(header.getvalue()))


def open_column(path: Readable, kinds: str, length: int | None = None, check: int | None = None) -> np.ndarray:
    """Map a column of one dimension; a remote one through its copy, or where there can be none, read it.
    `kinds`: those of dtypes that it may have, such as "iu". `check`: its checksum.

    Raises ValueError, with the name of the file, for one that is missing, damaged or another column."""
    stored = path.local() or io.BytesIO(path.read_bytes(MAX_BYTES)) if isinstance(path, Location) else path
    try:
        if check is not None and _checksum_of(stored) != check:
            raise ValueError("other content than was written")
        column = np.load(stored, mmap_mode="r" if isinstance(stored, Path) else None, allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError, TypeError, OverflowError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise ValueError(f"{path.name}: {why:.80}") from None
    if not isinstance(column, np.ndarray) or column.ndim != 1 or column.dtype.kind not in kinds:
        raise ValueError(f"{path.name}: no column of one dimension and the kinds {kinds!r}")
    if length is not None and len(column) != length:
        raise ValueError(f"{path.name}: {len(column)} entries instead of {length}")
    return np.asarray(column).view(np.ndarray)  # the subclass `memmap` is slow to index


def _checksum_of(stored: Path | io.BytesIO) -> int:
    # Read, not mapped: touched pages of a map count as memory of the process.
    if isinstance(stored, io.BytesIO):
        return zlib.crc32(stored.getbuffer())
    total = 0
    with open(stored, "rb", buffering=0) as file:
        while piece := file.read(_PIECE):
            total = zlib.crc32(piece, total)
    return total


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

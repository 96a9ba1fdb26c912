"""Columns: .npy files that are read through memory maps, so that many processes share them and none holds a copy."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from fourm_engine.files import write_atomically
from fourm_engine.storage.location import Location, Readable

#: Of a remote column that is held in memory, for want of a cache.
MAX_BYTES = 1 << 34


def save_column(path: Path, column: np.ndarray) -> None:
    """Write a column whole or not at all. Raises CannotWrite."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(column), allow_pickle=False)
    write_atomically(path, buffer.getvalue())


def open_column(path: Readable, kinds: str, length: int | None = None) -> np.ndarray:
    """Map a column of one dimension; a remote one through its copy, or where there can be none, read it.
    `kinds`: those of dtypes that it may have, such as "iu".

    Raises ValueError for a file that is missing, damaged or another column."""
    stored = path.local() or io.BytesIO(path.read_bytes(MAX_BYTES)) if isinstance(path, Location) else path
    try:
        column = np.load(stored, mmap_mode="r" if isinstance(stored, Path) else None, allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError, TypeError, OverflowError) as error:
        raise ValueError(f"{path}: no column ({error!s:.80})") from None
    if not isinstance(column, np.ndarray) or column.ndim != 1 or column.dtype.kind not in kinds:
        raise ValueError(f"{path}: no column of one dimension and the kinds {kinds!r}")
    if length is not None and len(column) != length:
        raise ValueError(f"{path}: {len(column)} entries instead of {length}")
    return np.asarray(column).view(np.ndarray)  # the subclass is slow to index

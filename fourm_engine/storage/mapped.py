"""MappedFile: watches a memory-mapped file for changes. MappedArray: an array in such a file.

Reading the map of a file that has been truncated kills the process (SIGBUS); checking its size first raises instead."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

#: Each `stat` of the file is followed by a pause of this many times its own duration: at most 1% of the time is spent
#: on it, even on a network file system, where it may take a millisecond.
PAUSE = 100
#: The remedy for a file that has changed during a run.
AGAIN = "start again (a run goes on from its last checkpoint)"


class MappedFile:
    """A mapped local file. `stat`: its state when it was mapped.

    cut, changed: remedies for a file that was truncated, or overwritten in place.
    timed: whether a new modification time means a change; False for cached copies, which are touched on use.
    error: the exception to raise."""

    def __init__(
        self,
        path: Path,
        stat: os.stat_result,
        *,
        cut: str = AGAIN,
        changed: str = AGAIN,
        timed: bool = True,
        error: Callable[[str], ValueError] = ValueError,
    ) -> None:
        self.path, self._cut, self._changed, self._error = path, cut, changed, error
        self._inode, self._size, self._time = stat.st_ino, stat.st_size, stat.st_mtime_ns if timed else None
        self._next = 0.0

    def check(self) -> None:
        """Raise `error` if the file has been overwritten in place, as of the latest `stat`. Removing or replacing it
        does not affect the map."""
        if (began := time.perf_counter()) < self._next:
            return
        try:
            stat = os.stat(self.path)
        except OSError:
            return
        now = time.perf_counter()
        self._next = now + PAUSE * (now - began)
        same = stat.st_size == self._size and self._time in (None, stat.st_mtime_ns)
        if same or stat.st_ino != self._inode:
            return
        if stat.st_size < self._size:
            was = f"was cut short while it was in use ({stat.st_size} bytes instead of {self._size})"
            raise self._error(f"{self.path}: {was}; {self._cut}")
        raise self._error(f"{self.path}: has changed while it was in use; {self._changed}")


class MappedArray:
    """The array in a mapped file; `mapped` is checked before each read."""

    def __init__(self, array: np.ndarray, mapped: MappedFile) -> None:
        self._array, self._mapped = array.view(np.ndarray), mapped  # memmap, the subclass, is slow to index
        self.shape, self.dtype, self.ndim = array.shape, array.dtype, array.ndim

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, key: Any) -> Any:
        self._mapped.check()
        return self._array[key]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        self._mapped.check()
        array = self._array if dtype is None else self._array.astype(dtype, copy=False)
        return array.copy() if copy else array

"""A cache with a limited size for arrays that a process reads repeatedly."""

from __future__ import annotations

from typing import Any

import numpy as np


class ArrayCache:
    """Keeps the first arrays, up to `budget` bytes in total. Empty in other processes.

    Arrays are copied into slabs: thousands of small long-lived arrays between large short-lived ones would keep the
    allocator from returning memory (measured: 2 GB for a budget of 256 MB)."""

    SLAB_BYTES = 8 << 20

    def __init__(self, budget: int) -> None:
        self.budget, self._bytes = budget, 0
        self._arrays: dict[tuple, np.ndarray] = {}
        self._free: dict[tuple, list[np.ndarray]] = {}  # (shape, dtype) -> rows of a slab not used yet

    def get(self, key: tuple) -> np.ndarray | None:
        return self._arrays.get(key)

    def put(self, key: tuple, value: Any) -> None:
        """Keep a copy, if it is an array and the budget allows."""
        if not isinstance(value, np.ndarray) or self._bytes + value.nbytes > self.budget:
            return
        rows = self._free.setdefault((value.shape, value.dtype), [])
        if not rows:
            number = max(1, min(self.SLAB_BYTES, self.budget - self._bytes) // max(1, value.nbytes))
            rows.extend(np.empty((number, *value.shape), value.dtype))
        row = rows.pop()
        row[...] = value
        self._arrays[key] = row
        self._bytes += value.nbytes

    def __getstate__(self) -> dict[str, Any]:
        return {"budget": self.budget, "_arrays": {}, "_bytes": 0, "_free": {}}

"""A cache of arrays with a budget of bytes, for what each process reads again and again."""

from __future__ import annotations

from typing import Any

import numpy as np


class ArrayCache:
    """Arrays up to `budget` bytes; the first to come stay. Empty in other processes.

    They are copied into slabs: thousands of small arrays that live on between large ones that come and go would keep
    the allocator from giving anything back (measured: 2 GB held for a budget of 256 MB)."""

    SLAB_BYTES = 8 << 20

    def __init__(self, budget: int) -> None:
        self.budget, self._bytes = budget, 0
        self._arrays: dict[tuple, np.ndarray] = {}
        self._free: dict[tuple, list[np.ndarray]] = {}  # (shape, dtype) -> rows of a slab not used yet

    def get(self, key: tuple) -> np.ndarray | None:
        return self._arrays.get(key)

    def put(self, key: tuple, value: Any) -> None:
        """Keep a copy, where it is an array and the budget allows."""
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

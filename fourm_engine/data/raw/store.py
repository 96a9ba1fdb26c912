"""RawStore: reads raw files through their views and tokenizes them on the fly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fourm_engine.data.bad_files import BadFile
from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.store import Store
from fourm_engine.data.tokens.shard_files import RecordedViews
from fourm_engine.data.views import FRESH_VIEWS, DrawnViews, view_of
from fourm_engine.masking.pack import patchify
from fourm_plugins.calls import encode
from fourm_plugins.tokenizer import Tokenizer


class RawStore(Store):
    """The samples of `data`.

    Args:
        tokenizers: modality -> fitted tokenizer, for all that are not continuous.
        seen: the views of each sample.
        cache_bytes: size of the cache for arrays that are read repeatedly.
        alter: a function (sample, modality, view, value) -> value, applied to values after the view."""

    def __init__(
        self,
        data: AlignedData,
        tokenizers: Mapping[str, Tokenizer],
        seen: RecordedViews | DrawnViews,
        *,
        cache_bytes: int = 0,
        alter: Callable[[str, str, int, Any], Any] | None = None,
    ) -> None:
        self.alter = alter
        self.data, self.tokenizers, self.seen = data, dict(tokenizers), seen
        self.names, self.views = data.names, seen.views
        self._cache = ArrayCache(cache_bytes)

    def row(self, name: str) -> int | None:
        """The row of a sample, or None."""
        return self.data.names.at(name)

    def has(self, row: int) -> frozenset[str]:
        return frozenset(self.data.has_at(row))

    def kinds(self) -> Counter[frozenset[str]]:
        return self.data.kinds()

    def load(self, row: int, modality: str, view: int = 0) -> np.ndarray:
        name = self.names[row]
        spec = self.data.modalities[modality].spec
        value = self._augmented(name, modality, view)
        if self.alter is not None:
            value = self.alter(name, modality, view, value)
        array = self.data.normalise(name, modality, value)
        if spec.continuous:
            assert isinstance(array, np.ndarray)
            return patchify(array, spec)
        if modality not in self.tokenizers:
            raise ValueError(
                f"{modality}: neither tokens nor tokenizer; run `fourm tokenizer fit`, then `fourm tokenize`"
            )
        return encode(self.tokenizers[modality], [array])[0]

    def _augmented(self, name: str, modality: str, view: int) -> Any:
        key = (modality, name, view)
        value = self._cache.get(key)
        if value is None:
            seen = view_of(self.data.modalities[modality].spec, self.seen.get(name, view), view)
            value = self.data.augment(name, modality, self.data.value(name, modality), seen)
            if self.views < FRESH_VIEWS:  # otherwise no view recurs
                self._cache.put(key, value)
        return value

    def skip(self, row: int, bad: BadFile) -> None:
        self.data.skip(self.names[row], bad)

    def identity(self) -> dict[str, Any]:
        # Stored views belong to tokens, whose identity includes them.
        drawn = self.seen.identity() if isinstance(self.seen, DrawnViews) else {}
        return super().identity() | drawn

    def contents(self) -> dict[str, Any]:
        return self.data.contents(self.data.modalities)

    def report(self) -> str:
        return self.data.report()


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

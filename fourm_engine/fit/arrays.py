"""Random access to the arrays that a tokenizer is fitted on.

In: a function from index to array, such as reading and normalising a sample. Out: the same arrays, kept in memory as
far as they fit, so that small data is read once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any


class ArrayData:
    """`count` arrays of one modality, `get(index)` each; None from `get` stands for a sample that cannot be used, which
    whoever reads it has reported. `fingerprint` names the data: its samples and crops. `stamp` says which version of
    their files it is, where there are files: their sizes and times."""

    def __init__(
        self,
        get: Callable[[int], Any],
        count: int,
        *,
        fingerprint: str,
        cache_bytes: int = 1 << 30,
        stamp: Callable[[], str] = lambda: "",
    ) -> None:
        self._get = get
        self._count = count
        self.fingerprint, self.stamp = fingerprint, stamp
        self._room = cache_bytes
        self._kept: dict[int, Any] = {}

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Any:
        """The array at `index`, or the next one that can be used. Raises ValueError if none can."""
        for offset in range(self._count):
            array = self._at((index + offset) % self._count)
            if array is not None:
                return array
        raise ValueError(f"none of the {self._count} samples can be used")

    def __iter__(self) -> Iterator[Any]:
        """All arrays that can be used, in order."""
        for index in range(self._count):
            array = self._at(index)
            if array is not None:
                yield array

    def _at(self, index: int) -> Any:
        if index in self._kept:
            return self._kept[index]
        array = self._get(index)
        size = getattr(array, "nbytes", None) or (len(array) if isinstance(array, str) else 8)
        if size <= self._room:
            self._room -= size
            self._kept[index] = array
        return array

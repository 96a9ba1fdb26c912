"""Encoder: encodes arrays of samples of one modality to token ids, in batches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fourm_plugins.calls import encode
from fourm_plugins.tokenizer import Tokenizer

#: Number of arrays passed to a tokenizer at once.
ENCODE_BATCH = 64


class Encoder:
    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        #: Sample -> digest of its files' bytes.
        self.contents: dict[str, int] = {}
        self._waiting: list[tuple[str, int, np.ndarray | str]] = []
        self._rows: dict[str, list[np.ndarray | None]] = {}

    def add(self, name: str, arrays: Sequence[np.ndarray | str | None], content: int) -> None:
        """arrays: one per view; None for a view that shows the same as view 0."""
        self.contents[name], self._rows[name] = content, [None] * len(arrays)
        self._waiting += [(name, view, array) for view, array in enumerate(arrays) if array is not None]
        while len(self._waiting) >= ENCODE_BATCH:
            self._encode()

    def take(self, name: str, ids: list[np.ndarray], content: int) -> None:
        """ids: for each view, of a sample that another process has encoded."""
        self.contents[name], self._rows[name] = content, [*ids]

    def _encode(self) -> None:
        batch, self._waiting = self._waiting[:ENCODE_BATCH], self._waiting[ENCODE_BATCH:]
        for (name, view, _), ids in zip(batch, encode(self.tokenizer, [array for *_, array in batch]), strict=True):
            self._rows[name][view] = ids

    def finish(self) -> dict[str, list[np.ndarray]]:
        """Sample -> ids of each view."""
        while self._waiting:
            self._encode()
        rows = {}
        for name, (first, *others) in self._rows.items():
            assert first is not None
            rows[name] = [first, *(first if ids is None else ids for ids in others)]
        return rows

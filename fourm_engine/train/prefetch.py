"""Prefetcher: copies micro-batches to the device ahead of each step.

In: the task's endless iterator of micro-batches, on the CPU. Out: the micro-batches of a step, with their host-side
originals. On a GPU, those of the next step are copied on a side stream during this one; on a CPU nothing is copied.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch


class Prefetcher:
    """Yields `size` micro-batches per step, from `batches`. `waited`: seconds spent waiting for data."""

    def __init__(self, batches: Iterator[Any], size: int, device: torch.device) -> None:
        self._batches, self._size, self._device = batches, size, device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._next: list[tuple[Any, Any]] | None = None
        self.waited = 0.0

    def next_step(self) -> list[tuple[Any, Any]]:
        """The micro-batches of the next step: (on the CPU, on the device)."""
        pairs, self._next = self._next or self._fetch(), None
        if self._stream is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_stream(self._stream)
            for _, batch in pairs:
                batch.record_stream(current)
        return pairs

    def prefetch(self) -> None:
        """Fetch the next step's micro-batches. Call while the GPU has work queued, before waiting for it."""
        if self._stream is not None and self._next is None:
            self._next = self._fetch()

    def _fetch(self) -> list[tuple[Any, Any]]:
        began = time.perf_counter()
        batches = list(islice(self._batches, self._size))
        self.waited += time.perf_counter() - began
        with torch.cuda.stream(self._stream):  # None: no effect
            return [(batch, batch.to(self._device, non_blocking=True)) for batch in batches]

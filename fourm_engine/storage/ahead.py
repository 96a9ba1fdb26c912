"""Copies shards before they are needed: threads that work through what a reader says comes next."""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

log = logging.getLogger(__name__)
T = TypeVar("T")
THREADS = 2
#: Of the last items, which are not planned again.
RECENT = 256


class ReadAhead(Generic[T]):
    """Calls `fetch` of what is planned, in order, in daemon threads, which each process starts when it first plans.

    What fails is left to the reader, who will meet the same error. `limit`: what may wait."""

    def __init__(self, fetch: Callable[[T], object], limit: int) -> None:
        self._fetch, self._limit, self._pid = fetch, limit, 0

    def plan(self, items: Iterable[T]) -> None:
        """Add `items` to what waits, those left out that came just now, and those for which there is no room: a reader
        that goes on names them again."""
        if self._pid != os.getpid():
            self._pid, self._changed = os.getpid(), threading.Condition()
            self._waiting, self._recent = deque[T](), deque[T](maxlen=RECENT)
            for _ in range(THREADS):
                threading.Thread(target=self._work, name="read-ahead", daemon=True).start()
        with self._changed:
            for item in items:
                if len(self._waiting) < self._limit and item not in self._recent:
                    self._waiting.append(item)
                    self._recent.append(item)
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    self._changed.wait()
                item = self._waiting.popleft()
            try:
                self._fetch(item)
            except Exception as error:
                log.debug("read ahead: %s", error)

    def __getstate__(self) -> dict[str, object]:
        return {"_fetch": self._fetch, "_limit": self._limit, "_pid": 0}

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


class ReadAhead(Generic[T]):
    """Calls `fetch` of what is planned, in order, in daemon threads, which each process starts when it first plans.

    What fails is left to the reader, who will meet the same error."""

    def __init__(self, fetch: Callable[[T], object]) -> None:
        self._fetch = fetch
        self._pid = 0

    def plan(self, items: Iterable[T]) -> None:
        """`items` take the place of what was planned and has not begun."""
        if self._pid != os.getpid():
            self._pid, self._changed, self._waiting = os.getpid(), threading.Condition(), deque[T]()
            for _ in range(THREADS):
                threading.Thread(target=self._work, name="read-ahead", daemon=True).start()
        with self._changed:
            self._waiting = deque(items)
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
        return {"_fetch": self._fetch, "_pid": 0}

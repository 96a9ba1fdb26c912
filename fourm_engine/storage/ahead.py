"""Copies shards before they are needed: threads that work through what a reader says comes next."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

log = logging.getLogger(__name__)
T = TypeVar("T")
THREADS = 2
#: Of the last items, which are not planned again.
RECENT = 256


class ReadAhead(Generic[T]):
    """Fetches what is planned, in order, in daemon threads, which each process starts when it first plans. They end
    with this object, or by `close`.

    What fails is left to the reader, who will meet the same error. `limit`: what may wait."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._queue: _Queue[T] | None = None

    def plan(self, items: Iterable[T], fetch: Callable[[T], object]) -> None:
        """Add `items` to what waits, those left out that came just now, and those for which there is no room: a reader
        that goes on names them again. `fetch`, a method, keeps its object alive only while it runs."""
        if self._queue is None or self._queue.pid != os.getpid():
            self._queue = _Queue(self._limit)
            # Not at the end of the process, which daemons do not outlive.
            weakref.finalize(self, self._queue.close).atexit = False
            for number in range(THREADS):
                arguments = self._queue, weakref.WeakMethod(fetch)
                threading.Thread(target=_work, args=arguments, name=f"read-ahead-{number}", daemon=True).start()
        self._queue.add(items)

    def close(self) -> None:
        """End the threads of this process, each after what it fetches now. Planning begins anew."""
        if self._queue is not None:
            self._queue.close()
            self._queue = None

    def __getstate__(self) -> dict[str, object]:
        return {"_limit": self._limit, "_queue": None}


class _Queue(Generic[T]):
    """What waits in the process `pid`."""

    def __init__(self, limit: int) -> None:
        self.pid, self._limit, self._open = os.getpid(), limit, True
        self._changed = threading.Condition()
        self._waiting, self._recent = deque[T](), deque[T](maxlen=RECENT)

    def add(self, items: Iterable[T]) -> None:
        with self._changed:
            for item in items:
                if len(self._waiting) < self._limit and item not in self._recent:
                    self._waiting.append(item)
                    self._recent.append(item)
            self._changed.notify_all()

    def take(self) -> T | None:
        """The next item, which is waited for; None once it is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or not self._open)
            return self._waiting.popleft() if self._open else None

    def close(self) -> None:
        if self.pid == os.getpid():  # a fork has none of the threads, and one of them may have held the lock
            with self._changed:
                self._open = False
                self._changed.notify_all()


def _work(queue: _Queue[T], fetch: weakref.WeakMethod[Callable[[T], object]]) -> None:
    while (item := queue.take()) is not None:
        if (call := fetch()) is None:
            return
        try:
            call(item)
        except Exception as error:
            log.debug("read ahead: %s", error)
        del call  # between two items it keeps nothing alive

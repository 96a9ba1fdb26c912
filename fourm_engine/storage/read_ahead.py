"""Prefetches shards, several at a time, in threads that process a reader's plan of what it needs now or later."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

log = logging.getLogger(__name__)
T = TypeVar("T")
#: Of each process.
THREADS = 8
#: Of the last items, which are not planned again.
RECENT = 1024


class ReadAhead(Generic[T]):
    """Fetches planned items, in order, in daemon threads, which each process starts on its first plan. They end with
    this object, or by `close`.

    Errors are ignored: the reader will get the same one. `limit`: maximum number of queued items that are not needed
    now."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._queue: _Queue[T] | None = None

    def plan(self, items: Iterable[T], fetch: Callable[[T], object], *, now: bool = False) -> int:
        """Queue `items`, except recent ones, up to the limit. Returns how many were accepted: a reader that continues
        passes the others again. `fetch`, a method, keeps its object alive only while it runs.

        now: they are needed in this order, before all queued ones; all are accepted."""
        if self._queue is None or self._queue.pid != os.getpid():
            self._queue = _Queue(self._limit)
            # Not at exit, which daemon threads do not survive.
            weakref.finalize(self, self._queue.close).atexit = False
            for number in range(THREADS):
                arguments = self._queue, weakref.WeakMethod(fetch)
                threading.Thread(target=_work, args=arguments, name=f"read-ahead-{number}", daemon=True).start()
        return self._queue.add(items, now=now)

    def close(self) -> None:
        """End the threads of this process, each after its current fetch. Planning starts afresh."""
        if self._queue is not None:
            self._queue.close()
            self._queue = None

    def __getstate__(self) -> dict[str, object]:
        return {"_limit": self._limit, "_queue": None}


class _Queue(Generic[T]):
    """The queue of the process `pid`."""

    def __init__(self, limit: int) -> None:
        self.pid, self._limit, self._open = os.getpid(), limit, True
        self._changed = threading.Condition()
        self._needed, self._waiting, self._recent = deque[T](), deque[T](), OrderedDict[T, None]()

    def add(self, items: Iterable[T], *, now: bool) -> int:
        added = 0
        with self._changed:
            for item in items:
                if now and item in self._waiting:
                    self._waiting.remove(item)
                    self._needed.append(item)
                elif item not in self._recent:
                    if not now and len(self._waiting) >= self._limit:
                        break
                    (self._needed if now else self._waiting).append(item)
                    self._recent[item] = None
                added += 1
            while len(self._recent) > RECENT:
                self._recent.popitem(last=False)
            self._changed.notify_all()
        return added

    def take(self) -> T | None:
        """Wait for the next item; None once it is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._needed or self._waiting or not self._open)
            return (self._needed or self._waiting).popleft() if self._open else None

    def close(self) -> None:
        if self.pid == os.getpid():  # a fork has none of the threads, one of which may have held the lock
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
        del call  # hold no reference between items

"""Copies shards, several at a time: threads that work through what a reader says it needs now or later."""

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
    """Fetches what is planned, in order, in daemon threads, which each process starts when it first plans. They end
    with this object, or by `close`.

    What fails is left to the reader, who will meet the same error. `limit`: what may wait that is not needed now."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._queue: _Queue[T] | None = None

    def plan(self, items: Iterable[T], fetch: Callable[[T], object], *, now: bool = False) -> int:
        """Add `items` to what waits, those left out that came lately, until there is no room. Returns how many there
        was room for: a reader that goes on names the others again. `fetch`, a method, keeps its object alive only while
        it runs.

        now: they are needed in this order, before all that waits; there is room for all of them."""
        if self._queue is None or self._queue.pid != os.getpid():
            self._queue = _Queue(self._limit)
            # Not at the end of the process, which daemons do not outlive.
            weakref.finalize(self, self._queue.close).atexit = False
            for number in range(THREADS):
                arguments = self._queue, weakref.WeakMethod(fetch)
                threading.Thread(target=_work, args=arguments, name=f"read-ahead-{number}", daemon=True).start()
        return self._queue.add(items, now=now)

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
        """The next item, which is waited for; None once it is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._needed or self._waiting or not self._open)
            return (self._needed or self._waiting).popleft() if self._open else None

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

"""Work that a thread does behind the one that computes, such as encoding and writing results."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

#: Maximum number of pieces of work that wait.
WAITING = 4


class Background:
    """Does one piece of work after another, in a thread. An error is raised by a later call, and nothing is done after
    it."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._waiting: deque[Future[None]] = deque()
        self._failed = False

    def __enter__(self) -> Background:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def later(self, work: Callable[[Any], None], argument: Any) -> None:
        """Do `work(argument)` after what is waiting; blocks while too much is."""
        self._waiting.append(self._thread.submit(self._do, work, argument))
        while len(self._waiting) > WAITING:
            self._waiting.popleft().result()

    def finish(self) -> None:
        """Wait for all of it."""
        while self._waiting:
            self._waiting.popleft().result()

    def _do(self, work: Callable[[Any], None], argument: Any) -> None:
        if not self._failed:
            self._failed = True
            work(argument)
            self._failed = False

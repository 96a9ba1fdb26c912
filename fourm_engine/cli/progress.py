"""Lines of progress of a long command: how much is done, how fast, how long it will take."""

from __future__ import annotations

import time

EVERY = 10.0  # seconds between two lines


class Progress:
    """Called with (done, in all) of what is left to do in this process; prints a line every ten seconds, in the first
    process alone."""

    def __init__(self, what: str, rank: int = 0) -> None:
        self.what, self.rank = what, rank
        self._began = self._last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._last < EVERY or self.rank or not done:
            return
        self._last = now
        from fourm_engine.train.metrics import duration

        rate = done / (now - self._began)
        speed = f"{rate:.0f}" if rate >= 10 else f"{rate:.2f}"
        print(f"{self.what}: {done}/{total}, {speed} samples/s, {duration((total - done) / rate)} left", flush=True)

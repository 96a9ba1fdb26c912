"""Line-based progress of a recipe. Every recipe takes a callable `print_fn` for its lines; some take `warn` for what
was left out, by default on stderr."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable

from fourm_engine.device import choose_device, rank_and_world, settle_threads

log = logging.getLogger(__name__)
PrintFn = Callable[[str], None]
EVERY = 10.0  # seconds between two lines of progress


def print_line(line: str) -> None:
    """Print a line, and flush."""
    print(line, flush=True)


def warn(line: str) -> None:
    """Print a line on stderr."""
    print(line, file=sys.stderr, flush=True)


def first_only(print_fn: PrintFn) -> PrintFn:
    """`print_fn` in the first process; does nothing in the others."""
    return print_fn if rank_and_world()[0] == 0 else lambda line: None


def choose_threads(device: str | None = None) -> None:
    """Set the CPU threads of a command that computes on `device` (None: a GPU if there is one), and log them."""
    if choose_device(device).type == "cpu" and (line := settle_threads()) and rank_and_world()[0] == 0:
        log.info("%s", line)


class Progress:
    """Called with (done, total) in this process; every ten seconds reports the progress, rate and remaining time."""

    def __init__(self, what: str, print_fn: PrintFn = print_line, *, unit: str = "samples") -> None:
        self.what, self.print_fn, self.unit = what, print_fn, unit
        self._began = self._last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._last < EVERY or not done:
            return
        self._last = now
        from fourm_engine.train.metrics import duration

        rate = done / (now - self._began)
        speed = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2f}"
        self.print_fn(f"{self.what}: {done:,}/{total:,}, {speed} {self.unit}/s, {duration((total - done) / rate)} left")

"""Runs Python's garbage collector at fixed steps, so that all processes pause at once instead of one after another."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: Steps between collections.
EVERY = 100


@contextmanager
def collect_at_steps() -> Iterator[Callable[[int], None]]:
    """Disable automatic collection; yields a function to call with the number of each finished step."""

    def collect(step: int) -> None:
        if step % EVERY == 0:
            gc.collect(1)

    was = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield collect
    finally:
        if was:
            gc.enable()

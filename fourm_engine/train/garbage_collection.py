"""Python's garbage collector, run at fixed steps, so that processes collect together and do not hold each other up."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: Steps between collections.
EVERY = 100


@contextmanager
def collected_at_steps() -> Iterator[Callable[[int], None]]:
    """Turn the collector off, and yield a function to call after each step with its number, which collects when due."""

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

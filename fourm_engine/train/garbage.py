"""Python's garbage collector at fixed steps, so that no process holds up the others at a moment of its own."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: Steps between collections.
EVERY = 100


@contextmanager
def collected_at_steps() -> Iterator[Callable[[int], None]]:
    """Switches the collector off, and yields what is to be called with the number of each step in its place."""

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

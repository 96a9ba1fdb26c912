"""Remarks on files that are used although something about them is wrong: one line a file, with its name.

`reading(place)` says which file is being read; `note(text)`, called anywhere below, logs `place: text`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

log = logging.getLogger(__name__)
#: Files named by a process before the rest are left out.
MAX_NOTES = 20

_place: ContextVar[Callable[[], str] | None] = ContextVar("place", default=None)
_said: set[str] = set()


@contextmanager
def reading(source: Callable[[], str]) -> Iterator[None]:
    """`place` gives the name of what is being read; it is called only where there is something to say."""
    before = _place.set(source)
    try:
        yield
    finally:
        _place.reset(before)


def note(text: str) -> None:
    """Log `text` with the name of the file that is being read, once a file."""
    source = _place.get()
    line = f"{source()}: {text}" if source is not None else text
    if line in _said or len(_said) > MAX_NOTES:
        return
    _said.add(line)
    log.warning("%s", line)
    if len(_said) > MAX_NOTES:
        log.warning("further files of which there is something to say are not named")

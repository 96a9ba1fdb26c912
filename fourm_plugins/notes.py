"""Remarks on files that are used although something is wrong with them: one line per file, with its name.

`reading(place)` says which file is being read; `note(text)`, called anywhere below, logs `place: text`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

log = logging.getLogger(__name__)
#: Files that a process names; further ones are not.
MAX_NOTES = 20

_place: ContextVar[Callable[[], str] | None] = ContextVar("place", default=None)
_said: set[str] = set()


@contextmanager
def reading(source: Callable[[], str]) -> Iterator[None]:
    """`place` returns the name of what is being read; it is called only when there is something to say."""
    before = _place.set(source)
    try:
        yield
    finally:
        _place.reset(before)


def note(text: str) -> None:
    """Log `text` with the name of the file being read, once per file."""
    source = _place.get()
    line = f"{source()}: {text}" if source is not None else text
    if line in _said or len(_said) > MAX_NOTES:
        return
    _said.add(line)
    log.warning("%s", line)
    if len(_said) > MAX_NOTES:
        log.warning("further files of which there is something to say are not named")

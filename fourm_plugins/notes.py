"""Notes on files that are used despite a problem: one line per file, with its name.

`reading(source)` sets the file being read; `note(text)`, called anywhere below, logs `source: text`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextvars import ContextVar

log = logging.getLogger(__name__)
#: For logging's `extra`: marks a line that concerns this process only. Unmarked lines concern all processes of a run,
#: and are logged by the first one.
ALONE = {"alone": True}
#: Maximum number of files that a process names.
MAX_NOTES = 20

_source: ContextVar[Callable[[], str] | None] = ContextVar("source", default=None)
_logged: set[str] = set()


class reading:
    """`source` returns the name of the file being read; it is called only if there is something to report."""

    def __init__(self, source: Callable[[], str]) -> None:
        self._name = source

    def __enter__(self) -> None:
        self._before = _source.set(self._name)

    def __exit__(self, *_: object) -> None:
        _source.reset(self._before)


def note(text: str) -> None:
    """Log `text` with the name of the file being read, once per file."""
    source = _source.get()
    line = f"{source()}: {text}" if source is not None else text
    if line in _logged or len(_logged) > MAX_NOTES:
        return
    _logged.add(line)
    log.warning("%s", line, extra=ALONE)
    if len(_logged) > MAX_NOTES:
        log.warning("further files of which there is something to say are not named", extra=ALONE)

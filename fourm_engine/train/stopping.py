"""SIGTERM and Ctrl-C while a run learns: the first one is a request, which the loop meets between two steps."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(SystemExit):
    """SIGTERM or SIGINT ended the run after a checkpoint; the exit code is 128 + signal."""


@contextmanager
def stop_requests() -> Iterator[dict[str, int]]:
    """Turn the first SIGTERM or SIGINT into a request; a second one acts at once."""
    request = {"signal": 0}
    previous = {number: signal.getsignal(number) for number in SIGNALS}

    def note(number: int, frame: FrameType | None) -> None:
        request["signal"] = number
        for each, handler in previous.items():
            signal.signal(each, handler)

    for number in SIGNALS:
        signal.signal(number, note)
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

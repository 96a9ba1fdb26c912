"""Signals that stop a run: the first one is a request, which the loop meets between two steps."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

#: SIGTERM comes from Slurm, Kubernetes and torchrun, SIGINT from Ctrl-C, SIGHUP from a terminal that closes, SIGUSR1
#: from `sbatch --signal=USR1@300`, some time before the job's end.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


class Stopped(SystemExit):
    """One of `SIGNALS` ended the run after a checkpoint; the exit code is 128 + signal."""


@contextmanager
def stop_requests() -> Iterator[dict[str, int]]:
    """Turn the first of these signals into a request; a second one acts at once. Ignored signals (`nohup`) stay
    ignored."""
    request = {"signal": 0}
    previous = {number: signal.getsignal(number) for number in SIGNALS}
    previous = {number: handler for number, handler in previous.items() if handler is not signal.SIG_IGN}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def note(number: int, frame: FrameType | None) -> None:
        request["signal"] = number
        restore()

    for number in previous:
        signal.signal(number, note)
    try:
        yield request
    finally:
        restore()

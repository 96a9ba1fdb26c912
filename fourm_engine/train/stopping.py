"""Requests to stop a run: by a signal, or because its output pipe is closed. The loop handles the first one between two
steps; a second signal acts at once, unless it is an echo of the first."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

#: SIGTERM comes from Slurm, Kubernetes and torchrun, SIGINT from Ctrl-C, SIGHUP from a terminal that closes, SIGUSR1
#: from `sbatch --signal=USR1@300`, some time before the job's end.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
#: Reasons to stop. SIGPIPE stands for a closed output pipe (`fourm train … | head`); the signal itself is not handled,
#: since broken connections raise it, too.
STOPS = (*SIGNALS, signal.SIGPIPE)
#: Signals within so many seconds of the first are the same request: `scancel` and Ctrl-C reach a launcher (torchrun, a
#: script with `trap`, `uv run`), which forwards them, and its processes.
ECHO = 1.0
_requests: list[dict[str, int]] = []


class Stopped(SystemExit):
    """A stop request ended the run after a checkpoint. The exit code is 128 + signal; the reason is already printed
    (`reported`)."""

    reported = True


def ask_to_stop(number: signal.Signals) -> bool:
    """Request that the runs of this process stop. Returns whether there are any."""
    for request in _requests:
        request["signal"] = request["signal"] or number
    return bool(_requests)


@contextmanager
def stop_requests() -> Iterator[dict[str, int]]:
    """Turn the first of `SIGNALS` into a request to stop; one that comes more than `ECHO` later acts at once. Ignored
    signals (`nohup`) stay ignored."""
    request, first = {"signal": 0}, -math.inf
    previous = {number: signal.getsignal(number) for number in SIGNALS}
    previous = {number: handler for number, handler in previous.items() if handler is not signal.SIG_IGN}

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal first
        if not request["signal"]:
            request["signal"], first = number, time.monotonic()
            return
        if time.monotonic() - first < ECHO:
            return
        # Called rather than reinstalled: while a plugin's code runs, other handlers are in front of this one.
        handler = previous[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)
        else:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    for number in previous:
        signal.signal(number, note)
    _requests.append(request)
    try:
        yield request
    finally:
        _requests.remove(request)
        for number, handler in previous.items():
            signal.signal(number, handler)

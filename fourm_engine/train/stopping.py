"""What stops a run: a signal, or that nobody reads its output. The first is a request, which the loop meets between two
steps."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

#: SIGTERM comes from Slurm, Kubernetes and torchrun, SIGINT from Ctrl-C, SIGHUP from a terminal that closes, SIGUSR1
#: from `sbatch --signal=USR1@300`, some time before the job's end.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
#: What a run may be asked to stop by. SIGPIPE stands for an output that nobody reads (`fourm train … | head`); it is no
#: signal that is waited for, since connections that break send it, too.
STOPS = (*SIGNALS, signal.SIGPIPE)
_requests: list[dict[str, int]] = []


class Stopped(SystemExit):
    """One of `SIGNALS` ended the run after a checkpoint; the exit code is 128 + signal. The user has been `told`."""

    told = True


def ask_to_stop(number: signal.Signals) -> bool:
    """Request of the runs of this process that they stop. Returns whether there are any."""
    for request in _requests:
        request["signal"] = request["signal"] or number
    return bool(_requests)


@contextmanager
def stop_requests() -> Iterator[dict[str, int]]:
    """Turn the first of these signals into a request; a second one acts at once. Ignored signals (`nohup`) stay
    ignored."""
    request = {"signal": 0}
    previous = {number: signal.getsignal(number) for number in SIGNALS}
    previous = {number: handler for number, handler in previous.items() if handler is not signal.SIG_IGN}

    def note(number: int, frame: FrameType | None) -> None:
        if not request["signal"]:
            request["signal"] = number
            return
        # Called rather than put in place: around code of a plugin other handlers stand before this one.
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

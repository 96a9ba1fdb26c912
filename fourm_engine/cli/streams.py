"""Standard input, output and error, made safe to use."""

from __future__ import annotations

import io
import os
import select
import sys
from typing import TextIO


def settle_streams() -> None:
    """Open those that the caller closed (`fourm … >&-`), on the null device: Python has none then, and the next file
    that is opened would get the number that libraries print to. Characters that a terminal cannot show are escaped."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115
        elif number and isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def unread() -> list[TextIO]:
    """Which of standard output and error are pipes that nobody reads any longer, as in `fourm … | head`."""
    gone = []
    for stream in (sys.stdout, sys.stderr):
        poll = select.poll()
        try:
            poll.register(stream.fileno(), 0)  # errors are always told
        except (OSError, ValueError):  # no file, as in a notebook
            continue
        if any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0)):
            gone.append(stream)
    return gone

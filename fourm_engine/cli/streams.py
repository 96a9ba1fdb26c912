"""Standard input, output and error, made safe to use."""

from __future__ import annotations

import io
import os
import sys


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

"""Console output of a run: lines that fit a terminal of 80 columns, and a progress bar on terminals."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import TextIO

from fourm_engine.train.stopping import ask_to_stop

WIDTH = 79
BETWEEN = 0.2  # seconds between redraws of the bar


def wrap(parts: Sequence[str], *, indent: str = "    ", width: int = WIDTH) -> list[str]:
    """Join `parts` with two spaces into lines of at most `width` characters, indented from the second on. A part that
    is too long for a line is truncated."""
    lines, line = list[str](), ""
    for part in parts:
        if line and len(line) + 2 + len(part) > width:
            lines.append(line)
            line = ""
        line = f"{line}  {part}" if line else shorten((indent if lines else "") + part, width)
    return [*lines, line] if line else lines


def shorten(line: str, width: int = WIDTH) -> str:
    return line if len(line) <= width else line[: width - 1] + "…"


class Bar:
    """A line at the bottom of a terminal, redrawn in place; draws nothing into a pipe or file."""

    def __init__(self) -> None:
        self._on = sys.stdout.isatty()
        self._drawn, self._last = False, 0.0

    def draw(self, done: int, total: int, words: str) -> None:
        now = time.monotonic()
        if not self._on or now - self._last < BETWEEN:
            return
        self._last, self._drawn = now, True
        filled = round(20 * done / total)
        text = shorten(f"{'█' * filled}{'░' * (20 - filled)} {done}/{total}  {words}")
        sys.stdout.write(f"\r\033[K{text}")
        sys.stdout.flush()

    def clear(self) -> None:
        """Call before printing anything else."""
        if self._drawn:
            sys.stdout.write("\r\033[K")
            sys.stdout.flush()
            self._drawn = False


def print_lines(lines: Sequence[str], stream: TextIO | None = None) -> None:
    """Print lines, by default to stdout. A closed pipe requests the run to stop; if the log's disk is full, the run
    continues, and the lines are written once there is space."""
    stream = stream or sys.stdout
    try:
        print("\n".join(lines), file=stream, flush=True)
    except BrokenPipeError:
        discard(stream)
        if not ask_to_stop(signal.SIGPIPE):
            raise
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise


def discard(stream: TextIO) -> None:
    """Redirect a stream whose reader is gone to the null device."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def gib(size: float) -> str:
    """Bytes with a binary unit: 2**31 -> "2 GiB"."""
    for power, unit in ((40, "TiB"), (30, "GiB")):
        if size >= 2 ** (power - 1):
            return f"{size / 2**power:,.0f} {unit}" if size >= 1000 * 2**power else f"{size / 2**power:.3g} {unit}"
    return f"{size / 2**20:.3g} MiB"


def si(value: float) -> str:
    """A number with an SI prefix, to put before a unit: 1234 -> "1.23 k", 5e12 -> "5 T"."""
    for power, sign in ((15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if abs(value) >= 10**power:
            return f"{value / 10**power:.3g} {sign}"
    return f"{value:.3g} "

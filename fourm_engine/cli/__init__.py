"""The command line `fourm`, one file per command group. Heavy imports happen inside the commands, so that listing
plugins stays instant.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any


def main() -> None:
    """Import the commands and run one. Ctrl-C during the import ends the process with a line, not with a traceback."""
    try:
        os.getcwd()
    except FileNotFoundError:  # libraries that are loaded later end the process with words of their own
        sys.exit("fourm: error: the current folder was removed; change to another one (cd)")
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # not where the caller ignores it, as `nohup` does
        signal.signal(signal.SIGINT, _end)
    try:
        from fourm_engine.cli.app import run
    finally:
        signal.signal(signal.SIGINT, before)
    run()


def _end(number: int, frame: Any) -> None:
    os.write(2, b"fourm: stopped by SIGINT\n")  # nothing has begun
    os._exit(128 + number)

"""`fourm train` in a process whose plugins are its own: `python plugins_run.py CONFIG SITE_OF_RANK_0 SITE_OF_1`. Its
watchdog takes a process for lost after two seconds of silence."""

from __future__ import annotations

import os
import sys


def main() -> None:
    sys.path.insert(0, sys.argv[2 + int(os.environ["RANK"])])
    sys.argv[1:] = ["train", sys.argv[1]]
    from fourm_engine.cli import main as fourm
    from fourm_engine.train import watchdog

    watchdog.SILENT = watchdog.LATE = 2.0
    fourm()


if __name__ == "__main__":
    main()

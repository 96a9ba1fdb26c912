"""`fourm train` in a process whose plugins are its own: `python plugins_run.py CONFIG SITE_OF_RANK_0 SITE_OF_1`."""

from __future__ import annotations

import os
import sys


def main() -> None:
    sys.path.insert(0, sys.argv[2 + int(os.environ["RANK"])])
    sys.argv[1:] = ["train", sys.argv[1]]
    from fourm_engine.cli import main as fourm

    fourm()


if __name__ == "__main__":
    main()

"""A command in a process whose plugins are its own: `python plugins_run.py CONFIG SITE_OF_RANK_0 SITE_OF_1 COMMAND…`,
in whose words `CONFIG` stands for that file, and RANK for the rank; the command `python` is training called from
Python, which prints what it raises. The watchdog takes a process for lost after two seconds of silence."""

from __future__ import annotations

import os
import sys


def main() -> None:
    sys.path.insert(0, sys.argv[2 + int(os.environ["RANK"])])
    command, config = sys.argv[4:], sys.argv[1]
    from fourm_engine.cli import main as fourm
    from fourm_engine.train import watchdog

    watchdog.SILENT = watchdog.LATE = 2.0
    if command == ["python"]:
        from fourm_engine.recipes.config import load_config
        from fourm_engine.recipes.train import train

        try:
            train(load_config(config))
        except BaseException as error:
            print(f"{type(error).__name__}: {error}")
        return
    sys.argv[1:] = [config if word == "CONFIG" else word.replace("RANK", os.environ["RANK"]) for word in command]
    fourm()


if __name__ == "__main__":
    main()

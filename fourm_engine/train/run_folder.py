"""Checks a run's folder before it starts, since a file in place of a folder would make the run fail hours later."""

from __future__ import annotations

import os
from pathlib import Path

FOLDERS = ("checkpoints", "processes", "not-finite", "pictures", "profile", "model", "model-ema")
FILES = ("metrics.jsonl", "run.json", "config.yaml", "started.json", "finished.json")


def check_run_folder(run: Path) -> None:
    """Raise ValueError, one line, if `run` contains a file where the run needs a folder, or the other way round."""
    for path in (run, *(run / name for name in FOLDERS)):
        if os.path.lexists(path) and not path.is_dir():
            raise ValueError(f"{path}: a file, where the run keeps a folder; move it away, or set another run")
    for path in (run / name for name in FILES):
        if os.path.lexists(path) and not path.is_file():
            raise ValueError(f"{path}: a folder, where the run keeps a file; move it away, or set another run")

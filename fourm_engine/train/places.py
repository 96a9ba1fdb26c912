"""What a run keeps where: known before it starts, so that nothing is lost to a file in the place of a folder later."""

from __future__ import annotations

import os
from pathlib import Path

FOLDERS = ("checkpoints", "processes", "not-finite", "pictures", "profile", "model", "model-ema")
FILES = ("metrics.jsonl", "run.json", "config.yaml", "started.json", "finished.json")


def check_places(run: Path) -> None:
    """Raise ValueError, one line, where something else is in the place of what the run in the folder `run` writes."""
    for path in (run, *(run / name for name in FOLDERS)):
        if os.path.lexists(path) and not path.is_dir():
            raise ValueError(f"{path}: a file is there, where the run keeps a folder; move it away, or set another run")
    for path in (run / name for name in FILES):
        if os.path.lexists(path) and not path.is_file():
            raise ValueError(f"{path}: a folder is there, where the run keeps a file; move it away, or set another run")

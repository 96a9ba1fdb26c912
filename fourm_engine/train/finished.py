"""`finished.json`: marks a run as finished, with its last step and evaluation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from fourm_engine.files import write_atomically
from fourm_engine.train.distributed import sum_numbers, world_size

NAME = "finished.json"


def write(run: Path, step: int, exports: Sequence[str], scores: dict[str, float]) -> None:
    write_atomically(run / NAME, json.dumps({"step": step, "exports": list(exports), "scores": scores}))


def read(run: Path, steps: int, exports: Sequence[str]) -> dict[str, float] | None:
    """The last evaluation of a run that finished after `steps` steps with these exports, if every process sees the
    file; otherwise None. A damaged file counts as missing: the end of the run is repeated."""
    scores, same = dict[str, float](), False
    try:
        document = json.loads((run / NAME).read_text(encoding="utf-8"))
        scores = {name: float(score) for name, score in document["scores"].items()}
        same = document["exports"] == list(exports) and document["step"] == steps
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        pass
    return scores if sum_numbers([float(same)])[0] == world_size() else None

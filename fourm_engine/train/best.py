"""The weights of a run's best evaluation, exported to `<run>/best/` with a note, `best.json`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fourm_engine.files import write_atomically
from fourm_engine.train.distributed import gather_json, gathered, rank, together
from fourm_engine.train.step import Learner
from fourm_engine.train.task import Task

if TYPE_CHECKING:
    from fourm_engine.train.config import TrainConfig

FOLDER, NOTE = "best", "best.json"


class Best:
    """`resumed`: whether the run continues from a checkpoint; a new run has no best evaluation yet."""

    def __init__(self, task: Task, learner: Learner, run: Path, *, config: TrainConfig, resumed: bool) -> None:
        self.task, self.learner, self.folder = task, learner, run / FOLDER
        self.averaged = config.exports[-1] == "ema"
        self.score: float | None = None
        if config.keep_best and resumed:
            self.score = gather_json(self._read() if rank() == 0 else None)[0]

    def consider(self, step: int, scores: Mapping[str, float]) -> None:
        """Export the weights if these are the best scores so far; every process calls it, with the same scores."""
        assert self.task.best is not None
        name, more_is_better = self.task.best
        score = scores.get(name, math.nan)
        if math.isnan(score) or (
            self.score is not None and (score <= self.score if more_is_better else score >= self.score)
        ):
            return
        self.score = score
        weights = gathered(self.learner.state(averaged=self.averaged))

        def export() -> None:
            self.task.export(weights, self.folder, dict(scores))
            write_atomically(self.folder / NOTE, json.dumps({"step": step, "measure": name, "score": score}) + "\n")

        together(lambda: export() if rank() == 0 else None)

    def _read(self) -> float | None:
        assert self.task.best is not None
        try:
            note = json.loads((self.folder / NOTE).read_text(encoding="utf-8"))
            score = float(note["score"]) if note["measure"] == self.task.best[0] else None
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None  # none yet, or damaged: the next evaluation is the best so far
        return None if score is None or math.isnan(score) else score

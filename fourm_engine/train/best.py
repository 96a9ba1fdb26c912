"""Keeps the weights of the best evaluation, and reports when the held-out measure no longer improves.

In: held-out scores, by step. Out: with `train.keep_best`, the best weights and `best.json` in `<run>/best/`; and a
message when later evaluations are worse.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fourm_engine.files import write_atomically
from fourm_engine.train.distributed import describe, gather_json, gathered, rank, together
from fourm_engine.train.learner import Learner
from fourm_engine.train.task import Task

if TYPE_CHECKING:
    from fourm_engine.train.config import TrainConfig

FOLDER, NOTE = "best", "best.json"
#: A measure no longer improves once this many evaluations after the best are worse, the last by this relative amount.
PATIENCE, WORSE = 3, 0.05


class Best:
    """Exports the weights of the best evaluation. `resumed`: whether the run continues from a checkpoint, so that an
    earlier best evaluation counts. `report` receives a line if the weights cannot be written."""

    def __init__(
        self,
        task: Task,
        learner: Learner,
        run: Path,
        *,
        config: TrainConfig,
        resumed: bool,
        report: Callable[[str], None],
    ) -> None:
        self.task, self.learner, self.folder, self.report = task, learner, run / FOLDER, report
        self.averaged = config.exports[-1] == "ema"
        self.score: float | None = None
        if config.keep_best and resumed:
            self.score = gather_json(self._read() if rank() == 0 else None)[0]

    def update(self, step: int, scores: Mapping[str, float]) -> None:
        """Export the weights if these scores are the best so far. Every process must call it, with the same scores."""
        assert self.task.monitor is not None
        name, more_is_better = self.task.monitor
        score = self.task.monitored(scores)
        if math.isnan(score) or (
            self.score is not None and (score <= self.score if more_is_better else score >= self.score)
        ):
            return
        weights = gathered(self.learner.state(averaged=self.averaged))

        def export() -> str | None:
            """The error that prevents the export, such as a full disk; None if it succeeds."""
            try:
                self.task.export(weights, self.folder, dict(scores))
                write_atomically(self.folder / NOTE, json.dumps({"step": step, "measure": name, "score": score}) + "\n")
            except OSError as error:
                return describe(error)
            return None

        # As with checkpoints, the run continues; the next evaluation better than the one on disk is exported.
        if failure := gather_json(together(lambda: export() if rank() == 0 else None))[0]:
            self.report(f"weights after step {step}, the best so far, not kept: {failure}")
        else:
            self.score = score

    def _read(self) -> float | None:
        assert self.task.monitor is not None
        note = _note(self.folder)
        score = note.get("score") if note.get("measure") == self.task.monitor[0] else None
        return float(score) if isinstance(score, (int, float)) and not math.isnan(score) else None


class HeldOut:
    """Tracks a run's held-out measure. `earlier`: (step, scores) of the evaluations before the run was resumed."""

    def __init__(self, task: Task, run: Path, *, earlier: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        self.task, self.folder = task, run / FOLDER
        self.scores: list[tuple[int, float]] = []
        self.reported = False
        for step, scores in earlier:
            self.lines(step, scores, last=False)

    def lines(self, step: int, scores: Mapping[str, float], *, last: bool) -> tuple[str, ...]:
        """Lines for the user when the measure no longer improves, once per run; otherwise (). `last`: whether this is
        the final evaluation, after training."""
        if self.task.monitor is None or math.isnan(score := self.task.monitored(scores)):
            return ()
        self.scores.append((step, score))
        name, more_is_better = self.task.monitor
        best = plateau(self.scores, more_is_better=more_is_better, patience=1 if last else PATIENCE)
        if best is None or self.reported:
            return ()
        self.reported = True
        remedy = (
            f"{self.folder} keeps that step: compare its predictions; more samples help"
            if _note(self.folder).get("step") == best[0]
            else "train.keep_best in a new run keeps that step, too; more samples help"
        )
        return f"{name} has not improved since step {best[0]} ({best[1]:.4g}, now {score:.4g})", remedy


def _note(folder: Path) -> dict[str, Any]:
    """The contents of `best.json`; {} if it is missing or damaged, so that the next evaluation counts as the best."""
    try:
        note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return note if isinstance(note, dict) else {}


def plateau(
    scores: Sequence[tuple[int, float]], *, more_is_better: bool, patience: int = PATIENCE
) -> tuple[int, float] | None:
    """The best evaluation (step, score) if none of `patience` later ones reached it and the last is worse by `WORSE`;
    otherwise None."""
    sign = 1 if more_is_better else -1
    at = max(range(len(scores)), key=lambda k: sign * scores[k][1])
    best, now = scores[at][1], scores[-1][1]
    if len(scores) - 1 - at < patience or sign * (best - now) <= WORSE * abs(best):
        return None
    return scores[at]

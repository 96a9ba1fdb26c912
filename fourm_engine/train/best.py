"""What a run's evaluations say of its length: the weights of the best one, and whether later ones are worse.

In: held-out scores, by step. Out: the weights of the best evaluation, exported to `<run>/best/` with a note,
`best.json`, with `train.keep_best`; and one line when the held-out measure no longer improves.
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
#: A measure no longer improves once this many evaluations after the best one are worse, the last by this share of it.
PATIENCE, WORSE = 3, 0.05


class Best:
    """`resumed`: whether the run continues from a checkpoint; a new run has no best evaluation yet. `report` receives a
    line where weights could not be written."""

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

    def consider(self, step: int, scores: Mapping[str, float]) -> None:
        """Export the weights if these are the best scores so far; every process calls it, with the same scores."""
        assert self.task.best is not None
        name, more_is_better = self.task.best
        score = self.task.compared(scores)
        if math.isnan(score) or (
            self.score is not None and (score <= self.score if more_is_better else score >= self.score)
        ):
            return
        weights = gathered(self.learner.state(averaged=self.averaged))

        def export() -> str | None:
            """What keeps them from being written, such as a full disk."""
            try:
                self.task.export(weights, self.folder, dict(scores))
                write_atomically(self.folder / NOTE, json.dumps({"step": step, "measure": name, "score": score}) + "\n")
            except OSError as error:
                return describe(error)
            return None

        # As with a checkpoint, the run goes on, and the next evaluation that is better than what is kept is written.
        if failure := gather_json(together(lambda: export() if rank() == 0 else None))[0]:
            self.report(f"weights after step {step}, the best so far, not kept: {failure}")
        else:
            self.score = score

    def _read(self) -> float | None:
        assert self.task.best is not None
        note = _note(self.folder)
        score = note.get("score") if note.get("measure") == self.task.best[0] else None
        return float(score) if isinstance(score, (int, float)) and not math.isnan(score) else None


class HeldOut:
    """Follows the measure of a run's evaluations. `earlier`: (step, scores) of those before the run was resumed."""

    def __init__(self, task: Task, run: Path, *, earlier: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        self.task, self.folder = task, run / FOLDER
        self.scores: list[tuple[int, float]] = []
        self.told = False
        for step, scores in earlier:
            self.lines(step, scores, last=False)

    def lines(self, step: int, scores: Mapping[str, float], *, last: bool) -> tuple[str, ...]:
        """What to tell, once in a run, when the measure no longer improves: the fact, and what to do; otherwise ().
        `last`: whether training has ended, so that there is nothing to wait for."""
        if self.task.best is None or math.isnan(score := self.task.compared(scores)):
            return ()
        self.scores.append((step, score))
        name, more_is_better = self.task.best
        best = passed(self.scores, more_is_better=more_is_better, patience=1 if last else PATIENCE)
        if best is None or self.told:
            return ()
        self.told = True
        remedy = (
            f"{self.folder} keeps that step: compare its predictions; more samples help"
            if _note(self.folder).get("step") == best[0]
            else "train.keep_best in a new run keeps that step, too; more samples help"
        )
        return f"{name} has not improved since step {best[0]} ({best[1]:.4g}, now {score:.4g})", remedy


def _note(folder: Path) -> dict[str, Any]:
    """What `best.json` says: {} if there is none, or it is damaged, so that the next evaluation is the best so far."""
    try:
        note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return note if isinstance(note, dict) else {}


def passed(
    scores: Sequence[tuple[int, float]], *, more_is_better: bool, patience: int = PATIENCE
) -> tuple[int, float] | None:
    """The best of the evaluations (step, score), if `patience` later ones did not reach it and the last is clearly
    worse; otherwise None."""
    sign = 1 if more_is_better else -1
    at = max(range(len(scores)), key=lambda k: sign * scores[k][1])
    best, now = scores[at][1], scores[-1][1]
    if len(scores) - 1 - at < patience or sign * (best - now) <= WORSE * abs(best):
        return None
    return scores[at]

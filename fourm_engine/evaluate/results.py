"""The results of an evaluation, as stored in `evaluation.json` and shown in the report.

Scores are floats in the metric's unit. A score that cannot be computed is None, with a note that gives the reason.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from fourm_plugins import calls
from fourm_plugins.counting import counted
from fourm_plugins.discovery import PluginError
from fourm_plugins.modality import Metric, Modality

#: Version of the layout of `evaluation.json`.
FORMAT = 3

#: Name of the matrix row without any input.
NOTHING = "nothing"


@dataclass(frozen=True)
class Score:
    """One metric of one target: the scores of the prediction, of the ceiling (the truth, encoded and decoded), and of
    constant predictors fitted to training values."""

    metric: str
    unit: str
    higher_is_better: bool
    prediction: float | None
    ceiling: float | None = None
    constants: dict[str, float | None] = field(default_factory=dict)

    @property
    def best_constant(self) -> tuple[str, float] | None:
        """(name, score) of the best constant predictor."""
        known = [(name, score) for name, score in self.constants.items() if score is not None]
        sign = -1 if self.higher_is_better else 1
        return min(known, key=lambda item: sign * item[1]) if known else None

    @property
    def ratio(self) -> float | None:
        """Prediction over the best constant; None where that is meaningless: if higher is better, or the
        constant scores 0."""
        if self.higher_is_better or self.prediction is None or not (best := self.best_constant) or not best[1]:
            return None
        return self.prediction / best[1]

    @property
    def share(self) -> float | None:
        """The share of the way from the best constant (0) to the ceiling (1); None if the ceiling is unknown or no
        better than the constant."""
        best = self.best_constant
        if self.prediction is None or self.ceiling is None or best is None:
            return None
        way = self.ceiling - best[1]
        return (self.prediction - best[1]) / way if way * (1 if self.higher_is_better else -1) > 0 else None


def measure(
    modality: Modality[Any], metric: Metric, predictions: Sequence[Any], truths: Sequence[Any], notes: list[str]
) -> float | None:
    """A metric of the modality; None if it is not finite or cannot be computed, with the reason in `notes`."""
    try:
        score = calls.compute(modality, metric, predictions, truths)
    except PluginError:
        raise
    except ValueError as error:
        note = f"{modality.name}: {metric.name} cannot be computed: {error}"
        if note not in notes:
            notes.append(note)
        return None
    return score if math.isfinite(score) else None


def measurable(name: str, metrics: Sequence[Metric], samples: int, notes: list[str]) -> list[Metric]:
    """The metrics of the modality `name` for which there are enough samples; `notes` names the others."""
    for metric in metrics:
        note = f"{name}: {metric.name} needs {counted(metric.min_samples, 'sample')} and has {samples}"
        if samples < metric.min_samples and note not in notes:
            notes.append(note)
    return [metric for metric in metrics if samples >= metric.min_samples]


@dataclass(frozen=True)
class Agreement:
    """How well predictions of `target` match the input `given`, by a contrastive model. `cosine`, `truth`, `others`:
    mean cosines of a prediction with its input, of the truth with that input, and of a prediction with the inputs of
    other samples. `recall_at_1`, `truth_recall_at_1`: fraction of predictions, and of truths, that are nearer to their
    input than to all others; chance is 1 / `samples`."""

    given: str
    target: str
    samples: int
    cosine: float
    truth: float
    others: float
    recall_at_1: float
    truth_recall_at_1: float


@dataclass(frozen=True)
class Spread:
    """Means of one metric between samples of one input (`among`), between these and the truth (`error`), and between
    truths of different inputs (`apart`)."""

    metric: str
    unit: str
    higher_is_better: bool
    among: float | None
    error: float | None
    apart: float | None


@dataclass(frozen=True)
class Diversity:
    """How much `draws` samples for each of `inputs` inputs differ. `distinct`: their effective number in the features
    of a contrastive model, from 1 to `draws` (Vendi score)."""

    draws: int
    inputs: int
    spreads: list[Spread]
    distinct: float | None


@dataclass(frozen=True)
class TaskResult:
    """`scores`: target -> its metrics, the most important first, over the `samples` held-out samples with all inputs,
    of which `scored` also have the target's truth. `diversity` covers the sampled targets."""

    name: str
    inputs: list[str]
    targets: list[str]
    keep: dict[str, str]
    samples: int
    scored: dict[str, int]
    scores: dict[str, list[Score]]
    seconds: float
    agreement: list[Agreement] = field(default_factory=list)
    diversity: dict[str, Diversity] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """Held-out nats per token of one target given one input, and the paired `difference` to the target given nothing,
    with standard errors over samples."""

    nats: float
    error: float
    difference: float
    difference_error: float
    samples: int

    @property
    def lowers(self) -> bool:
        """Whether the input lowers the nats by more than two standard errors."""
        return self.difference < -2 * self.difference_error

    @property
    def raises(self) -> bool:
        return self.difference > 2 * self.difference_error


@dataclass(frozen=True)
class Matrix:
    """`cells[input][target]`; the first is `NOTHING`. Absent: pairs without samples, and a modality given itself."""

    inputs: list[str]
    targets: list[str]
    cells: dict[str, dict[str, Cell]]
    seconds: float


@dataclass
class Evaluation:
    """A whole evaluation. `run` describes the run (steps, parameters, plugins …); `tokenizers` has the statistics of
    each tokenizer."""

    run: dict[str, Any]
    tasks: list[TaskResult]
    matrix: Matrix | None
    tokenizers: dict[str, dict[str, Any]]
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        record = asdict(self)
        for task, row in zip(self.tasks, record["tasks"], strict=True):
            for target, scores in task.scores.items():
                for score, entry in zip(scores, row["scores"][target], strict=True):
                    entry["ratio"] = score.ratio
        for name, cells in (self.matrix.cells if self.matrix else {}).items():
            for target, cell in cells.items():
                record["matrix"]["cells"][name][target]["lowers"] = cell.lowers
        return {"format": FORMAT, **record}

    def text(self) -> str:
        """Strict JSON, without NaN."""
        return json.dumps(finite(self.to_json()), indent=1, allow_nan=False) + "\n"


def finite(record: Any) -> Any:
    """`record` with None in place of every float that is not finite."""
    if isinstance(record, dict):
        return {str(key): finite(value) for key, value in record.items()}
    if isinstance(record, (list, tuple)):
        return [finite(value) for value in record]
    if isinstance(record, float) and not math.isfinite(record):
        return None
    return record

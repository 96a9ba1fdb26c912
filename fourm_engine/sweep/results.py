"""The results of a sweep: its trials by point, ranked by mean over seeds; `sweep.json` and `best.yaml`."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import yaml

from fourm_engine.files import write_atomically
from fourm_engine.sweep.config import Measure
from fourm_engine.sweep.folder import DONE, FAILED, SweepFolder
from fourm_engine.sweep.trial import Trial, shown
from fourm_engine.sweep.trial_config import command_of
from fourm_engine.sweep.trial_metrics import TrialMetrics, read_metrics
from fourm_plugins.counting import counted, printable

SWEEP, BEST, FORMAT = "sweep.json", "best.yaml", 1
WAITING = "waiting"


@dataclass(frozen=True)
class Result:
    """A trial and its result. `value` is None if it has not ended, has failed, or has no finite number."""

    trial: Trial
    state: str
    error: str
    cut: int | None
    metrics: TrialMetrics
    value: float | None

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.trial.name,
            "folder": self.trial.folder,
            "point": self.trial.point,
            "seed": self.trial.seed,
            "state": self.state,
            "error": self.error,
            "cut_at_step": self.cut,
            "value": self.value,
            "terms": self.metrics.terms,
            **self.metrics.numbers,
        }


@dataclass
class Group:
    """The trials of one point, over its seeds. `rank` is 1 for the best, None without a number."""

    point: dict[str, Any]
    results: list[Result]
    rank: int | None = None

    @property
    def values(self) -> list[float]:
        return [result.value for result in self.results if result.value is not None]

    @property
    def mean(self) -> float | None:
        return mean(self.values) if self.values else None

    @property
    def deviation(self) -> float | None:
        """Standard deviation over seeds (n - 1); None for a single one."""
        return stdev(self.values) if len(self.values) > 1 else None

    @property
    def whole(self) -> bool:
        return len(self.values) == len(self.results)

    def number(self, name: str) -> float | None:
        """The mean of a number over the runs of the group."""
        values = [r.metrics.numbers[name] for r in self.results if name in r.metrics.numbers]
        return mean(values) if values else None

    def to_json(self) -> dict[str, Any]:
        return {
            "point": self.point,
            "rank": self.rank,
            "mean": self.mean,
            "deviation": self.deviation,
            "values": self.values,
            "trials": [result.trial.name for result in self.results],
        }


@dataclass
class Results:
    """All results of a sweep so far."""

    measure: Measure
    groups: list[Group]
    #: The terms whose mean is the measure.
    over: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def results(self) -> list[Result]:
        return [result for group in self.groups for result in group.results]

    @property
    def ranked(self) -> list[Group]:
        """Best first; groups without a number at the end."""
        return sorted(self.groups, key=lambda group: group.rank or math.inf)

    @property
    def best(self) -> Group | None:
        return next((group for group in self.groups if group.rank == 1), None)

    def count(self, state: str) -> int:
        return sum(result.state == state for result in self.results)

    def to_json(self) -> dict[str, Any]:
        best = self.best
        return {
            "format": FORMAT,
            "measure": self.measure.model_dump(),
            "over": self.over,
            "best": None if best is None else best.to_json(),
            "groups": [group.to_json() for group in self.ranked],
            "trials": [result.to_json() for result in self.results],
            "notes": self.notes,
        }


def results_of(trials: Sequence[Trial], folder: SweepFolder, measure: Measure) -> Results:
    """The results so far of trials that share a measure."""
    ended = []
    for trial in trials:
        outcome = folder.outcome(trial)
        done = outcome is not None and outcome.state == DONE
        numbers = read_metrics(folder.out / trial.folder, measure, trial.result) if done else TrialMetrics()
        ended.append((trial, outcome, numbers))
    terms = [set(numbers.terms) for _, _, numbers in ended if numbers.terms]
    over = set.intersection(*terms) if terms else set()
    results, notes = list[Result](), list[str]()
    for trial, outcome, numbers in ended:
        state = WAITING if outcome is None or outcome.state not in (DONE, FAILED) else outcome.state
        error, value = "" if outcome is None else outcome.error, numbers.value(over)
        if state == DONE and value is None:
            error = f"no finite {measure.key}" if not numbers.terms else "shares no loss with the others"
        results.append(Result(trial, state, error, None if outcome is None else outcome.step, numbers, value))
    if any(names != over for names in terms):
        shared = ", ".join(sorted(over)) or "none"
        what = f"{measure.key} is the mean of those that all have: {shared}"
        notes.append(f"trials have different held-out losses; {what}")
    groups: dict[str, Group] = {}
    for result in results:
        key = json.dumps(result.trial.point, sort_keys=True, default=str)
        groups.setdefault(key, Group(result.trial.point, [])).results.append(result)
    report = Results(measure, list(groups.values()), sorted(over), notes)
    _rank(report)
    if unfinished := [g for g in report.groups if g.values and not g.whole]:
        notes.append(f"{counted(len(unfinished), 'point')} without all seeds; ranked behind those that have them")
    if any(result.cut for result in report.results):
        rates = "where their learning rate was then; a constant rate suits that"
        notes.append(f"trials were cut by budget.minutes, {rates}")
    return report


def _rank(report: Results) -> None:
    sign = 1 if report.measure.goal == "min" else -1
    numbered = [group for group in report.groups if group.mean is not None]
    numbered.sort(key=lambda group: (not group.whole, sign * (group.mean or 0.0)))
    for rank, group in enumerate(numbered, 1):
        group.rank = rank


def write_results(report: Results, out: Path) -> None:
    write_atomically(out / SWEEP, json.dumps(report.to_json(), indent=1, default=str) + "\n")


def write_best(report: Results, out: Path, origin: Path) -> Path | None:
    """Write the config of the best point, with its first seed, for `fourm train`; returns its path, or None without a
    best point."""
    if report.best is None or not (content := report.best.results[0].trial.content):
        return None
    path, group = out / BEST, report.best
    point = ", ".join(f"{key} {shown(value)}" for key, value in group.point.items()) or "the base"
    point = printable(" ".join(point.split()), most=300)
    value = f"{report.measure.key} {spread(group)} over {counted(len(group.values), 'seed')}"
    comment = f"# The best of {origin}: {point}; {value}.\n# fourm {command_of(content)} {path}\n"
    text = yaml.safe_dump({**content, "run": str(out / "best")}, sort_keys=False, allow_unicode=True)
    write_atomically(path, comment + text)
    return path


def spread(group: Group | None) -> str:
    """ "1.234 ± 0.05", or "1.234" for one seed; "" without a number."""
    if group is None or group.mean is None:
        return ""
    deviation = group.deviation
    return f"{group.mean:.4g}" + ("" if deviation is None else f" ± {deviation:.2g}")


def table_of(report: Results) -> tuple[list[str], list[list[str]]]:
    """(columns, rows), best first: rank, the axes, the measure, seeds, steps and errors."""
    axes = list(dict.fromkeys(key for group in report.groups for key in group.point))
    rows = []
    for group in report.ranked:
        steps = {int(r.metrics.numbers["steps"]) for r in group.results if "steps" in r.metrics.numbers}
        errors = sorted({r.error for r in group.results if r.error})
        waiting = sum(result.state == WAITING for result in group.results)
        errors += [f"{waiting} not trained yet"] if waiting else []
        rows.append(
            [
                "" if group.rank is None else str(group.rank),
                *(shown(group.point[axis]) if axis in group.point else "" for axis in axes),
                spread(group),
                f"{len(group.values)}/{len(group.results)}",
                "–".join(map(str, sorted({min(steps), max(steps)}))) if steps else "",
                "; ".join(errors),
            ]
        )
    columns = ["", *axes, f"{report.measure.key} ({report.measure.goal})", "seeds", "steps", ""]
    return columns, rows


def numeric_axes(groups: Sequence[Group]) -> dict[str, list[Any]]:
    """Axis -> its values, for axes with at least two values that are all numbers."""
    axes: dict[str, list[Any]] = {}
    for group in groups:
        for key, value in group.point.items():
            axes.setdefault(key, []).append(value)
    return {
        key: sorted(set(values))
        for key, values in axes.items()
        if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values) and len(set(values)) > 1
    }

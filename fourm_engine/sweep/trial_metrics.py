"""The results of a trial as numbers: its measure, its curve, and the axes of scaling plots.

In: the output files of training or a command. Out: finite numbers; invalid ones count as missing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from fourm_engine.evaluate.metrics_file import LARGEST, numbers
from fourm_engine.recipes.runs import KnownRun, covered, is_run, open_run
from fourm_engine.sweep.config import RESULT, Measure
from fourm_plugins.suggest import did_you_mean

#: File with the standard output of a command.
OUTPUT = "output.json"
MAX_BYTES = 1 << 24
#: Quantities that runs measure, for the axes of scaling plots.
MEASURED = ("parameters", "steps", "samples", "seconds", "flops")


@dataclass(frozen=True)
class TrialMetrics:
    """`terms`: name -> number, whose mean is the measure. `curve`: (step, value) for each evaluation. `numbers`: those
    of `MEASURED`."""

    terms: dict[str, float] = field(default_factory=dict)
    curve: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    numbers: dict[str, float] = field(default_factory=dict)

    def value(self, over: set[str] | None = None) -> float | None:
        """The mean over `over`, or over all terms; None if there is none."""
        values = [value for name, value in self.terms.items() if over is None or name in over]
        return mean(values) if values else None


def read_metrics(folder: Path, measure: Measure, result: str = RESULT) -> TrialMetrics:
    """Read the files in a trial's folder; `result` is the file that a command writes."""
    run = open_run(folder) if is_run(folder) else None
    kind, _, rest = measure.key.partition(".")
    if kind == "result":
        value = _of_result(folder, result, rest)
        return TrialMetrics({} if value is None else {measure.key: value}, [], _numbers(run))
    if run is None:
        return TrialMetrics()
    curve = [(step, terms) for step, terms in _terms(run, kind, rest) if terms]
    if not curve:
        return TrialMetrics({}, [], _numbers(run))
    terms = curve[-1][1]
    if measure.at == "best":
        best = measure.better([mean(terms.values()) for _, terms in curve])
        terms = next(terms for _, terms in curve if mean(terms.values()) == best)
    return TrialMetrics(terms, curve, _numbers(run))


def explain_missing(folder: Path, measure: Measure) -> str:
    """The error for a finished trial without a number for the measure, with a suggestion if its key is misspelt."""
    said, (kind, _, rest) = f"done, but left no finite {measure.key}", measure.key.partition(".")
    names = set[str]()
    for line in open_run(folder).lines if rest and kind != "result" and is_run(folder) else []:
        pairs = {f"{given}.{target}": value for given, row in line.pairs.items() for target, value in row.items()}
        names |= {"eval": line.held_out, "loss": line.losses, "pairs": pairs}[kind].keys()
    return f"{said}; {did_you_mean(rest, names)}" if names and rest not in names else said


def _terms(run: KnownRun, kind: str, rest: str) -> list[tuple[int, dict[str, float]]]:
    """(step, {term: value}) for each line of the run that has terms."""
    by_step = []
    trained = {name for line in run.lines for name in line.losses}
    for line in run.lines:
        if kind == "loss":
            terms = line.losses if rest else ({"loss": line.numbers["loss"]} if "loss" in line.numbers else {})
        elif kind == "pairs":
            terms = {f"{given}.{target}": x for given, row in line.pairs.items() for target, x in row.items()}
        else:  # metrics that are not losses count only if named
            terms = {name: v for name, v in line.held_out.items() if rest or not trained or name in trained}
        by_step.append((line.step, {name: value for name, value in terms.items() if not rest or name == rest}))
    return by_step


def _of_result(folder: Path, result: str, path: str) -> float | None:
    """The number at a dotted path in a command's result; a key may itself contain dots."""
    for name in (result, OUTPUT):
        try:
            with open(folder / name, "rb") as file:
                number = _at(json.loads(file.read(MAX_BYTES)), path)
        except (OSError, ValueError, RecursionError):
            continue
        if number is not None:
            return number
    return None


def _at(value: Any, path: str) -> float | None:
    """The finite number at `path` in a JSON value. In a list of records, a part of the path selects those that have it
    among their values, as in `tasks.NAME.scores.depth.AbsRel.prediction` of `evaluation.json`."""
    if not path:
        finite = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST
        return float(value) if finite else None
    if isinstance(value, list) and len(value) == 1 and (inner := _at(value[0], path)) is not None:
        return inner
    parts = path.split(".")
    for length in range(len(parts), 0, -1):
        key, rest = ".".join(parts[:length]), ".".join(parts[length:])
        if isinstance(value, Mapping):
            below = value.get(key)
        elif isinstance(value, list):
            below = [record for record in value if isinstance(record, Mapping) and key in _texts(record)]
        else:
            return None
        if (inner := _at(below, rest)) is not None:
            return inner
    return None


def _texts(record: Mapping[str, Any]) -> set[str]:
    return {str(value) for value in record.values() if isinstance(value, str | int)}


def _numbers(run: KnownRun | None) -> dict[str, float]:
    if run is None:
        return {}
    at = covered(run)
    facts: dict[str, Any] = {"parameters": run.facts.get("parameters"), "steps": float(run.step) or None}
    for name in ("samples", "seconds"):
        facts[name] = at[name][-1] if at[name] else None
    facts["flops"] = _flops(run, at["seconds"])
    return {name: value for name, value in numbers(facts).items() if value > 0 and math.isfinite(value)}


def _flops(run: KnownRun, seconds: list[float]) -> float | None:
    """FLOPs of the whole run: the rate of each line times the seconds since the line before."""
    rates = [line.numbers.get("flops_per_s") for line in run.trained]
    if not seconds or None in rates:
        return None
    return sum(rate * (end - start) for rate, start, end in zip(rates, [0.0, *seconds], seconds, strict=False) if rate)

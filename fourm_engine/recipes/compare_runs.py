"""Compare runs: the settings that differ, and the losses after equal steps, samples and seconds.

In: runs. Out: `Comparison`, JSON-ready.
"""

from __future__ import annotations

import json
import os
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fourm_engine.evaluate.charts import NATS, Curve, curves_of
from fourm_engine.evaluate.metrics_file import Line
from fourm_engine.evaluate.run_curves import draw_runs
from fourm_engine.recipes.runs import KnownRun, covered, flat, open_run
from fourm_plugins.counting import counted

#: Longest value of a setting in the brief table, in characters.
MAX_CHARS = 40
AXES = {"step": "step", "samples": "samples", "seconds": "seconds of training"}
#: The `what` of a run's record (`fourm_engine.train.run_record`) if its losses are nats.
OF_MODELS = frozenset({"fourm", "finetuning", "extension"})
#: Settings that always differ between runs.
NAMES_OF_RUNS = frozenset({"run"})
HELD_OUT = "held out "
#: Keys of a run's record that describe the machine and software.
MACHINE = ("device", "processes", "engine", "commit", "torch")


@dataclass(frozen=True)
class Comparison:
    """Two or more runs compared.

    `settings`: dotted name -> the value in each run, None where it is not set. `brief`: the same as text, "-" where it
    is not set, with one row for a whole section that only some runs set. `machines`: device, versions and commit, where
    they differ. `at`: axis -> (point, {loss: its value in each run}); an axis that a run lacks is left out."""

    runs: list[str]
    settings: dict[str, list[Any]]
    brief: dict[str, list[str]]
    machines: dict[str, list[Any]]
    at: dict[str, tuple[float, dict[str, list[float | None]]]]

    @property
    def names(self) -> list[str]:
        """The folders of the runs, without the parent folder that all share."""
        above = os.path.commonpath([os.path.dirname(os.path.abspath(run)) for run in self.runs])
        return [os.path.relpath(run, above) for run in self.runs]

    def to_json(self) -> dict[str, Any]:
        at = {axis: {"at": where, "losses": losses} for axis, (where, losses) in self.at.items()}
        return {"runs": self.runs, "settings": self.settings, "machines": self.machines, "at": at}


def compare_runs(folders: Sequence[Path]) -> Comparison:
    """Compare the runs in `folders`. Raises ValueError for fewer than two, and for a folder without a run."""
    runs = [open_run(folder) for folder in folders]
    if len(runs) < 2:
        raise ValueError("name at least two runs to compare: fourm runs compare RUN RUN")
    each = [settings_of(run) for run in runs]
    settings = differing(each)
    machines = differing([{name: run.facts[name] for name in MACHINE if name in run.facts} for run in runs])
    names = [str(run.folder) for run in runs]
    return Comparison(names, settings, in_brief(settings, each), machines, equal_points(runs))


def settings_of(run: KnownRun) -> dict[str, Any]:
    """The settings of a run by dotted name, from its `config.yaml` (or, without one, the training settings in its
    record)."""
    return flat(run.config) or flat({"train": run.facts.get("train") or {}})


def differing(each: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Setting -> its value in each run, for settings that differ."""
    names = sorted({name for settings in each for name in settings} - NAMES_OF_RUNS)
    values = {name: [settings.get(name) for settings in each] for name in names}
    return {name: row for name, row in values.items() if any(value != row[0] for value in row)}


def in_brief(settings: Mapping[str, list[Any]], each: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Setting -> its value in each run: strings as they are, anything else as JSON. A section that only some runs set
    becomes one row with the number of settings in each run."""
    sections = [{part for name in said for part in _upwards(name)} for said in each]
    brief, parts = dict[str, list[str]](), dict[str, list[str]]()
    for name, row in settings.items():
        if all(name in said for said in each):
            brief[name] = [_cut(value) for value in row]
        # Skips an empty list next to a list of sections, which have their own rows.
        elif not all(name in said for said in sections):
            lacked = next((part for part in _upwards(name) if any(part not in said for said in sections)), name)
            parts.setdefault(lacked if lacked != name else f"{name.rpartition('.')[0]}.*", []).append(name)
    for part, names in parts.items():
        if len(names) == 1:
            brief[names[0]] = [_cut(said[names[0]]) if names[0] in said else "-" for said in each]
        else:
            counts = [sum(name in said for name in names) for said in each]
            brief[part] = [counted(count, "setting") if count else "-" for count in counts]
    return dict(sorted(brief.items()))


def _upwards(name: str) -> list[str]:
    """`a`, `a.b` and `a.b.c` for `a.b.c`."""
    steps = name.split(".")
    return [".".join(steps[:end]) for end in range(1, len(steps) + 1)]


def _cut(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MAX_CHARS else text[: MAX_CHARS - 1] + "…"


def equal_points(runs: Sequence[KnownRun]) -> dict[str, tuple[float, dict[str, list[float | None]]]]:
    """Axis -> (the last point that all runs reached, {loss: its value in each run there}): the training loss of the
    last line up to that point, and the held-out loss of the last evaluation up to it."""
    at = {}
    axes = [covered(run) for run in runs]
    for axis in AXES:
        if not all(covered_by[axis] for covered_by in axes):
            continue
        where = min(covered_by[axis][-1] for covered_by in axes)
        columns = [losses_at(run, covered_by[axis], where) for run, covered_by in zip(runs, axes, strict=True)]
        names = list(dict.fromkeys(name for column in columns for name in column))
        at[axis] = where, {name: [column.get(name) for column in columns] for name in names}
    return at


def losses_at(run: KnownRun, axis: Sequence[float], where: float) -> dict[str, float]:
    """The losses of a run at its last training line where `axis` (one value per line) is at most `where`: "loss", the
    loss of each term, and "held out ...". {} before the first line."""
    number = bisect_right(axis, where)
    if not number:
        return {}
    line = run.trained[number - 1]
    evaluated = [other for other in run.lines if other.held_out and other.step <= line.step]
    held_out = evaluated[-1].held_out if evaluated else {}
    return {"loss": line.numbers["loss"], **line.losses, **{HELD_OUT + name: value for name, value in held_out.items()}}


def plot_runs(folders: Sequence[Path], out: Path, *, axis: str = "step") -> list[str]:
    """Draw the curves of runs to `out`, over steps, samples or seconds. Returns notes on what was left out.

    Raises ValueError without runs, for an unsupported file type, and if matplotlib is not installed."""
    if axis not in AXES:
        raise ValueError(f"no axis {axis!r}; choose from {', '.join(AXES)}")
    if not folders:
        raise ValueError("name a run to plot")
    curves, notes = {}, []
    runs = [open_run(folder) for folder in folders]
    for run in runs:
        run_curves = curves_over(run, axis)
        if not run_curves:
            notes.append(f"{run.folder}: no line with {axis}, left out")
            continue
        curves[str(run.folder)] = run_curves
    unit = NATS if all(run.facts.get("what") in OF_MODELS for run in runs) else "loss"
    return notes + draw_runs(out, curves, axis=AXES[axis], unit=unit)


def curves_over(run: KnownRun, axis: str) -> list[Curve]:
    """The curves of a run; an evaluation is drawn at the last training line up to its step."""
    steps, values = [line.step for line in run.trained], covered(run)[axis]

    def at(line: Line) -> float | None:
        number = bisect_right(steps, line.step)
        return values[number - 1] if number else None

    return curves_of(run.lines, at) if values else []

"""Implements `fourm runs`: finds the runs below some folders, and summarises each. Read-only; does not import torch.

A run is described by the files that training writes: `run.json` (kind, machine, outcome), `metrics.jsonl` and
`config.yaml`. Each may be absent, half-written or invalid, in which case less is known about the run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from fourm_engine.evaluate.metrics_file import LARGEST, Line, read_lines
from fourm_engine.evaluate.metrics_file import NAME as METRICS
from fourm_engine.lock import process_lives
from fourm_engine.train import run_record
from fourm_engine.yaml_config import ConfigError, not_a_run, read_yaml, run_of_data
from fourm_plugins.hub import check_there

#: `fourm_engine.recipes.config.CONFIG`, whose module imports torch; and a file that only finished runs have.
CONFIG, FINISHED = "config.yaml", "finished.json"
#: As `fourm_engine.train.best` writes it, which imports torch.
NOTE = "best/best.json"
#: Limits of the search for runs: depth below a given folder, and number of folders.
DEPTH, MOST = 4, 20_000
#: Sub-folders of a run that contain no runs.
WITHIN = frozenset({"checkpoints", "model", "model-ema", "evaluation", "profile", "pictures", "tensorboard", "best"})


@dataclass(frozen=True)
class KnownRun:
    """A run's folder, and the content of its files: `facts` from `run.json`, `config` from `config.yaml`."""

    folder: Path
    facts: dict[str, Any] = field(repr=False)
    config: dict[str, Any] = field(repr=False)
    lines: list[Line] = field(repr=False)

    @property
    def trained(self) -> list[Line]:
        """The lines of `metrics.jsonl` about training."""
        return [line for line in self.lines if "loss" in line.numbers]

    @property
    def batch_size(self) -> int | None:
        """Samples per step."""
        return self._setting("batch_size")

    @property
    def steps(self) -> int | None:
        """Steps of the whole run."""
        steps = self.facts.get("steps")
        return steps if isinstance(steps, int) and abs(steps) < LARGEST else self._setting("steps")

    def _setting(self, name: str) -> int | None:
        train = self.facts.get("train") or self.config.get("train")
        value = train.get(name) if isinstance(train, dict) else None
        return value if isinstance(value, int) and abs(value) < LARGEST else None

    @property
    def step(self) -> int:
        """The last finished step in the lines."""
        ended = self.facts.get("step")
        return max([line.step for line in self.lines] + ([ended] if isinstance(ended, int) else []), default=0)

    @property
    def state(self) -> str:
        """ "running", "ended", "stopped" (by a signal), "failed", "killed" (without a record), or "unknown"."""
        state = self.facts.get("state")
        if state == run_record.RUNNING:
            return "killed" if process_lives(self.facts) is False else state
        if state in (run_record.ENDED, run_record.FAILED, run_record.STOPPED):
            return str(state)
        return run_record.ENDED if (self.folder / FINISHED).is_file() else "unknown"

    def best(self) -> tuple[float, int] | None:
        """(lowest mean of the held-out losses, its step). Metrics that are not training losses do not count."""
        terms = {name for line in self.lines for name in line.losses}
        scores = [
            (mean(shared), line.step)
            for line in self.lines
            if (shared := [value for name, value in line.held_out.items() if name in terms])
        ]
        return min(scores, default=None)

    def kept_step(self) -> int | None:
        """The step whose weights are in the run's `best/`."""
        try:
            step = json.loads((self.folder / NOTE).read_text(encoding="utf-8"))["step"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        return step if isinstance(step, int) and abs(step) < LARGEST else None

    def row(self) -> dict[str, Any]:
        """The run's row in `fourm runs`, JSON-ready; None stands for unknown."""
        last, best = next(reversed(self.trained), None), self.best()
        numbers = last.numbers if last else {}
        known = ("parameters", "processes", "device", "engine", "torch", "commit", "started", "ended", "error")
        at = covered(self)
        return {
            "run": str(self.folder),
            "what": self.facts.get("what"),
            "state": self.state,
            "step": self.step,
            "steps": self.steps,
            "loss": numbers.get("loss"),
            "losses": last.losses if last else {},
            "held_out": next((line.held_out for line in reversed(self.lines) if line.held_out), {}),
            "best_held_out": best[0] if best else None,
            "best_step": best[1] if best else None,
            "exported_step": self.facts.get("step") if self.state == run_record.ENDED else None,
            "kept_step": self.kept_step(),
            "samples_per_s": numbers.get("samples_per_s"),
            "seconds": at["seconds"][-1] if at["seconds"] else None,
            "samples": at["samples"][-1] if at["samples"] else None,
            **{key: self.facts.get(key) for key in known},
        }


def covered(run: KnownRun) -> dict[str, list[float]]:
    """Cumulative "step", "samples" and "seconds" of training at each line of training; [] if unknown. Seconds and
    samples missing from a line are computed from the speed and batch size."""
    lines = run.trained
    size, samples, seconds, before = run.batch_size, list[float](), list[float](), 0
    for line in lines:
        if "samples" in line.numbers or size:
            samples.append(line.numbers.get("samples", line.step * (size or 0)))
        if "seconds" in line.numbers:
            seconds.append(line.numbers["seconds"])
        elif size and (rate := line.numbers.get("samples_per_s")):
            seconds.append((seconds[-1] if seconds else 0.0) + (line.step - before) * size / rate)
        before = line.step
    axes = {"step": [float(line.step) for line in lines], "samples": samples, "seconds": seconds}
    return {name: values if len(values) == len(lines) else [] for name, values in axes.items()}


def is_run(folder: Path) -> bool:
    return (folder / run_record.NAME).is_file() or (folder / METRICS).is_file()


def open_run(folder: Path) -> KnownRun:
    """The run in `folder`. Raises ValueError for a folder without a run."""
    if not folder.is_dir():
        check_there(folder)
        raise ValueError(not_a_run(folder))
    if not is_run(folder):
        inside = [str(path) for path in sorted(folder.iterdir()) if path.is_dir() and is_run(path)]
        remedy = f"; did you mean {' or '.join(inside[:3])}?" if inside else run_of_data(folder)
        raise ValueError(f"{folder} holds no run: neither {run_record.NAME} nor {METRICS}{remedy}")
    config: dict[str, Any] = {}
    if (folder / CONFIG).is_file():
        try:
            config = read_yaml(folder / CONFIG)
        except (ConfigError, OSError):
            config = {}
    return KnownRun(folder, run_record.read(folder), config, read_lines(folder / METRICS))


def find_runs(folders: Sequence[Path]) -> list[KnownRun]:
    """The runs in and below `folders`, by path. Raises ValueError for a folder that does not exist."""
    runs: dict[Path, KnownRun] = {}
    looked = 0
    for folder in folders:
        if not folder.is_dir():
            check_there(folder)
            raise ValueError(f"{folder}: is a file; name the folder that holds the runs")
        for parent, below, _ in os.walk(folder):
            here, looked = Path(parent), looked + 1
            if looked > MOST:
                raise ValueError(f"{folder}: more than {MOST} folders; name those that hold runs")
            deep = len(here.relative_to(folder).parts)
            hides = WITHIN if is_run(here) else frozenset[str]()
            below[:] = [] if deep >= DEPTH else sorted(b for b in below if not b.startswith(".") and b not in hides)
            if is_run(here) and here.resolve() not in runs:
                runs[here.resolve()] = open_run(here)
    return list(runs.values())


def flat(config: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested settings by dotted names. A list is a value, except a list of sections, which are keyed by their `name` or
    number."""
    settings: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{above}{key}"
        if isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value):
            value = {str(entry.get("name", number)): entry for number, entry in enumerate(value)}
        settings |= flat(value, f"{name}.") if isinstance(value, dict) and value else {name: value}
    return settings


def matrix_of(folder: Path, step: int | None = None) -> tuple[int, dict[str, dict[str, float]]]:
    """(step, input -> target -> held-out loss) of the last matrix that a run wrote, or of that at `step`. Raises
    ValueError if there is none."""
    matrices = {line.step: line.pairs for line in open_run(folder).lines if line.pairs}
    if not matrices:
        raise ValueError(f"{folder}: no matrix of inputs and targets; train with train.pairs_every=500")
    if step is not None and step not in matrices:
        raise ValueError(f"{folder}: no matrix at step {step}; choose from {', '.join(map(str, matrices))}")
    at = max(matrices) if step is None else step
    return at, matrices[at]

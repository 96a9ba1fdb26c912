"""Metrics of a run: `<run>/metrics.jsonl`, and progress lines on the console.

In: numbers by step. Out, from rank 0: one JSON object per line; `step` counts finished steps. When a run resumes, lines
of later steps are removed, so that each step appears once.
"""

from __future__ import annotations

import errno
import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fourm_engine.files import write_atomically, writing
from fourm_engine.train.console import WIDTH, Bar, print_lines, si, wrap
from fourm_plugins.counting import number

#: The console mentions waiting for data from this fraction of the time on.
MIN_DATA_WAIT = 0.05


class Metrics:
    """Writes and prints a run's metrics. `step`: the step at which the run continues; `name`: the task's; `active`:
    true only on rank 0, which writes. `peak`: FLOP/s of all devices together, once known."""

    def __init__(self, run: Path, *, step: int, steps: int, name: str = "", active: bool = True) -> None:
        self.active = active
        self.steps, self.name, self.peak = steps, name, 0.0
        self._step, self._window = step, _Window(step)
        self._bar = Bar()
        self._printed = False
        self._start, self._before = time.monotonic(), 0.0  # seconds before the run was resumed
        self.evaluations: list[tuple[int, dict[str, float]]] = []  # before the run was resumed: (step, scores)
        if not active:
            return
        self._path = run / "metrics.jsonl"
        with writing(self._path):
            run.mkdir(parents=True, exist_ok=True)
            self._before, self.evaluations = _truncate(self._path, step, last=step == steps)
            self._file = open(self._path, "ab", buffering=0)  # noqa: SIM115 (kept open for the run)

    def start(self, parameters: int, devices: str) -> None:
        """Print the run's first line, before the first batch."""
        if self.active:
            what = f"{self.name}: {si(parameters).strip()} parameters learn".lstrip(": ")
            print_lines(wrap([what, f"steps {min(self._step + 1, self.steps)} to {self.steps}", devices]))

    def set_peak(self, peak: float, what: str) -> None:
        """Set the peak FLOP/s that `mfu` refers to, and print its source."""
        self.peak = peak
        if self.active:
            print_lines(wrap([f"mfu: share of {what}"]))

    def add(
        self,
        loss: float,
        sums: Mapping[str, float],
        counts: Mapping[str, float],
        *,
        lr: float,
        norm: float,
        samples: int,
        work: tuple[float, float],
    ) -> None:
        """Add a step to the next line: its loss, the sums and counts of its terms, its `samples` and `work` = (tokens
        without padding, FLOPs), all over all processes. The line shows the last `lr` and gradient `norm`."""
        window = self._window
        window.number += 1
        window.loss += loss
        window.samples += samples
        window.tokens += work[0]
        window.flops += work[1]
        window.lr, window.norm = lr, norm
        for name, total in sums.items():
            window.sums[name] = window.sums.get(name, 0.0) + total
            window.counts[name] = window.counts.get(name, 0.0) + counts[name]

    def log(self, step: int, *, skipped: int, waited: float = 0.0, memory: float = 0.0) -> dict[str, Any] | None:
        """Write, print and return the averages since the last line. `skipped`, `waited`: steps skipped and seconds
        spent waiting for data since the start. `memory`: peak GiB of the process."""
        window, self._window = self._window, _Window(step, waited)
        if not self.active or window.number == 0:
            return None
        row = window.row(step, skipped=skipped, waited=waited)
        if window.flops and row["flops_per_s"] <= self.peak:  # else the measured peak is too low
            row["mfu"] = round(row["flops_per_s"] / self.peak, 4)
        if memory:
            row["memory_gib"] = round(memory, 3)
        row["seconds_left"] = round((self.steps - step) * window.seconds() / (step - window.step), 1)
        row["samples"] = step * window.samples // window.number
        row["seconds"] = round(self._before + time.monotonic() - self._start, 2)
        self._write(row)
        self._print(step, row, f"{duration(row['seconds_left'])} left")
        return row

    def show_progress(self, step: int) -> None:
        """Call after a step without a line: prints the first step at once, and advances the bar on a terminal."""
        window = self._window
        if not self.active or window.number == 0:
            return
        loss = f"loss {_short(window.loss / window.number)}"
        if not self._printed:
            self._printed = True
            self._print(step, {"loss": window.loss / window.number, "losses": window.losses()}, "first step")
            return
        seconds = (self.steps - step) * window.seconds() / max(1, step - window.step)
        self._bar.draw(step, self.steps, f"{self.name}  {loss}  {duration(seconds)} left")

    def _print(self, step: int, row: Mapping[str, Any], last: str) -> None:
        self._printed = True
        width = len(str(self.steps))
        parts = [f"{self.name or 'step'} {step:{width}d}/{self.steps}", f"loss {_short(row['loss'])}"]
        if "lr" in row:
            parts += [f"lr {row['lr']:.2g}", f"gradient {row['gradient_norm']:.2g}"]
            parts.append(f"{number(row['samples_per_s'])} samples/s")
        if "tokens_per_s" in row:
            parts.append(f"{_thousands(row['tokens_per_s'])} tokens/s")
        if "mfu" in row:
            parts.append(f"mfu {row['mfu']:.0%}")
        if row.get("data_wait", 0.0) >= MIN_DATA_WAIT:
            parts.append(f"data wait {row['data_wait']:.0%}")
        if "memory_gib" in row:
            parts.append(f"{row['memory_gib']:.2g} GiB")
        if row.get("skipped"):
            parts.append(f"{row['skipped']} skipped")
        parts.append(last)
        losses = [f"{name} {_short(value)}" for name, value in row["losses"].items()]
        self._bar.clear()
        print_lines(wrap(parts) + ["    " + line for line in wrap(losses, indent="", width=WIDTH - 4)])

    def log_scores(self, step: int, scores: Mapping[str, float]) -> dict[str, float | None]:
        """Write, print and return the scores of an evaluation."""
        finite = {name: _finite(value) for name, value in scores.items()}
        if self.active:
            self._write({"step": step, "eval": finite})
            if scores:
                self._bar.clear()
                title = f"{self.name} held out, step {step}".strip()
                print_lines(wrap([title, *(f"{name} {_short(value)}" for name, value in scores.items())]))
        return finite

    def log_pairs(self, step: int, scores: Mapping[tuple[str, str], float], seconds: float) -> None:
        """Write a matrix of held-out losses, (input, target) -> nats per token, computed in `seconds`, and print the
        most informative input of each target."""
        if not self.active:
            return
        matrix: dict[str, dict[str, float | None]] = {}
        for (given, target), score in scores.items():
            matrix.setdefault(given, {})[target] = _finite(score)
        self._write({"step": step, "pairs": matrix, "pairs_seconds": round(seconds, 2)})
        best: dict[str, tuple[float, str]] = {}
        for (given, target), score in scores.items():
            if math.isfinite(score):
                best[target] = min(best.get(target, (math.inf, given)), (score, given))
        self._bar.clear()
        title = f"{self.name} pairs, step {step}, {duration(seconds)}".strip()
        print_lines(
            wrap([title, *(f"{given} to {name} {_short(score)}" for name, (score, given) in sorted(best.items()))])
        )

    def note(self, text: str, *more: str) -> None:
        """Print an event, with details below it. Paths are never truncated."""
        if self.active:
            self._bar.clear()
            print_lines([f"{self.name}: {text}".lstrip(": "), *(f"    {part}" for part in more)])

    def log_skipped(self, step: int, facts: Mapping[str, Any]) -> None:
        """Write a row about a skipped step."""
        if self.active:
            self._write({"step": step, "not_finite": dict(facts)})

    def close(self) -> None:
        if self.active:
            self._bar.clear()
            with writing(self._path):
                self._file.close()

    def _write(self, row: dict[str, Any]) -> None:
        line, end = (json.dumps(row) + "\n").encode(), self._file.seek(0, os.SEEK_END)
        with writing(self._path):
            try:
                if self._file.write(line) != len(line):  # a full disk took only a part of it
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except BaseException:
                self._file.truncate(end)
                raise


class _Window:
    """Sums since the last line."""

    def __init__(self, step: int, waited: float = 0.0) -> None:
        self.waited = waited
        self.step, self.number, self.loss, self.samples, self.tokens, self.flops = step, 0, 0.0, 0, 0.0, 0.0
        self.lr = self.norm = 0.0
        self.sums: dict[str, float] = {}
        self.counts: dict[str, float] = {}
        self.start = time.monotonic()

    def seconds(self) -> float:
        return max(time.monotonic() - self.start, 1e-9)

    def losses(self) -> dict[str, float | None]:
        """Term -> mean over all items since the last line."""
        return {n: _finite(self.sums[n] / self.counts[n]) for n in sorted(self.sums) if self.counts[n] > 0}

    def row(self, step: int, *, skipped: int, waited: float) -> dict[str, Any]:
        seconds = self.seconds()
        row: dict[str, Any] = {
            "step": step,
            "loss": _finite(self.loss / self.number),
            "losses": self.losses(),
            "lr": self.lr,
            "gradient_norm": self.norm,
            "skipped": skipped,
            "samples_per_s": self.samples / seconds,
            "data_wait": round(min(1.0, (waited - self.waited) / seconds), 4),
        }
        if self.tokens:
            row["tokens_per_s"] = self.tokens / seconds
        if self.flops:
            row["flops_per_s"] = self.flops / seconds
        return row


def duration(seconds: float) -> str:
    """Seconds as a clock shows them: 75 -> "1:15", 4000 -> "1:06:40"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _truncate(path: Path, step: int, *, last: bool) -> tuple[float, list[tuple[int, dict[str, float]]]]:
    """Keep the lines up to `step`; drop a truncated line, and the final evaluation, which is repeated. Returns the
    seconds that the kept lines cover, and their evaluations."""
    kept, seconds, evaluations = list[bytes](), 0.0, list[tuple[int, dict[str, float]]]()
    if not path.exists():
        return seconds, evaluations
    for line in path.read_bytes().split(b"\n"):
        try:
            row = json.loads(line)
            if row["step"] < step or (row["step"] == step and not (last and "eval" in row)):
                kept.append(line + b"\n")
                seconds = float(row.get("seconds", seconds))
                if scores := {name: float(score) for name, score in row.get("eval", {}).items() if score is not None}:
                    evaluations.append((int(row["step"]), scores))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):  # not one of our lines
            continue
    write_atomically(path, b"".join(kept))
    return seconds, evaluations


def _finite(value: float) -> float | None:
    """None for NaN and infinity, which JSON does not have."""
    return value if math.isfinite(value) else None


def _thousands(value: float) -> str:
    """1234 -> "1.23k"."""
    return f"{value / 1000:.3g}k" if value >= 1000 else f"{value:.3g}"


def _short(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.3g}"

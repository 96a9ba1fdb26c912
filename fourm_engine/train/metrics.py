"""What a run reports: `<run>/metrics.jsonl`, and a line of progress on the console.

In: numbers by step. Out, from the first process: one JSON object per line; `step` counts finished steps. When a run
resumes, lines of later steps are removed, so that no step appears twice.
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

#: Share of the time spent waiting for data from which the console says so.
TOLD_WAIT = 0.05


class Metrics:
    """`step` is where the run goes on. `active` is false in all processes but the first, which alone writes."""

    def __init__(self, run: Path, *, step: int, steps: int, active: bool = True) -> None:
        self.active = active
        self.steps = steps
        self._window = _Window(step)
        if not active:
            return
        self._path = run / "metrics.jsonl"
        with writing(self._path):
            run.mkdir(parents=True, exist_ok=True)
            _truncate(self._path, step, last=step == steps)
            self._file = open(self._path, "ab", buffering=0)  # noqa: SIM115 (kept open for the run)

    def add(
        self,
        loss: float,
        sums: Mapping[str, float],
        counts: Mapping[str, float],
        *,
        lr: float,
        norm: float,
        samples: int,
        tokens: int,
    ) -> None:
        """One step that was taken, to be averaged into the next line: the loss, sums and counts of its terms, `samples`
        and `tokens` (padding left out) over all processes; the line shows `lr` and gradient `norm` of the last one."""
        window = self._window
        window.number += 1
        window.loss += loss
        window.samples += samples
        window.tokens += tokens
        window.lr, window.norm = lr, norm
        for name, total in sums.items():
            window.sums[name] = window.sums.get(name, 0.0) + total
            window.counts[name] = window.counts.get(name, 0.0) + counts[name]

    def line(self, step: int, *, skipped: int, waited: float = 0.0) -> dict[str, Any] | None:
        """Write, print and return what was added since the last line. `skipped`, `waited`: steps left out, and seconds
        in which the process waited for data, since the run began."""
        window, self._window = self._window, _Window(step, waited)
        if not self.active or window.number == 0:
            return None
        row = window.row(step, skipped=skipped, waited=waited)
        self._write(row)
        width = len(str(self.steps))
        parts = [f"step {step:{width}d}/{self.steps}", f"loss {_short(row['loss'])}"]
        parts += [f"{name} {_short(value)}" for name, value in row["losses"].items()]
        parts.append(f"lr {window.lr:.2e}")
        parts.append(f"{row['samples_per_s']:.3g} samples/s")
        if "tokens_per_s" in row:
            parts.append(f"{row['tokens_per_s']:.3g} tokens/s")
        if row["data_wait"] >= TOLD_WAIT:
            parts.append(f"data wait {row['data_wait']:.0%}")
        if skipped:
            parts.append(f"{skipped} skipped")
        seconds = (self.steps - step) * window.seconds() / (step - window.step)
        parts.append(f"{duration(seconds)} left")
        print("  ".join(parts), flush=True)
        return row

    def scores(self, step: int, scores: Mapping[str, float]) -> dict[str, float | None]:
        """Write and print an evaluation. Returns what was written."""
        finite = {name: _finite(value) for name, value in scores.items()}
        if self.active:
            self._write({"step": step, "eval": finite})
            print("  ".join(["  held out", *(f"{name} {_short(value)}" for name, value in scores.items())]), flush=True)
        return finite

    def close(self) -> None:
        if self.active:
            with writing(self._path):
                self._file.close()

    def _write(self, row: dict[str, Any]) -> None:
        line, end = (json.dumps(row) + "\n").encode(), self._file.seek(0, os.SEEK_END)
        with writing(self._path):
            try:
                if self._file.write(line) != len(line):  # a full disk takes the beginning
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except BaseException:
                self._file.truncate(end)
                raise


class _Window:
    """Sums since the last line."""

    def __init__(self, step: int, waited: float = 0.0) -> None:
        self.waited = waited
        self.step, self.number, self.loss, self.samples, self.tokens = step, 0, 0.0, 0, 0
        self.lr = self.norm = 0.0
        self.sums: dict[str, float] = {}
        self.counts: dict[str, float] = {}
        self.start = time.monotonic()

    def seconds(self) -> float:
        return max(time.monotonic() - self.start, 1e-9)

    def row(self, step: int, *, skipped: int, waited: float) -> dict[str, Any]:
        seconds = self.seconds()
        losses = {name: self.sums[name] / self.counts[name] for name in sorted(self.sums) if self.counts[name] > 0}
        row: dict[str, Any] = {
            "step": step,
            "loss": _finite(self.loss / self.number),
            "losses": {name: _finite(value) for name, value in losses.items()},
            "lr": self.lr,
            "gradient_norm": self.norm,
            "skipped": skipped,
            "samples_per_s": self.samples / seconds,
            "data_wait": round(min(1.0, (waited - self.waited) / seconds), 4),
        }
        if self.tokens:
            row["tokens_per_s"] = self.tokens / seconds
        return row


def duration(seconds: float) -> str:
    """75 -> "1:15", 4000 -> "1:06:40"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _truncate(path: Path, step: int, *, last: bool) -> None:
    """Keep the lines of steps up to `step`, but for the last evaluation, which is made again, and a line cut short."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
            if row["step"] < step or (row["step"] == step and not (last and "eval" in row)):
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue
    write_atomically(path, "".join(kept))


def _finite(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None


def _short(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"

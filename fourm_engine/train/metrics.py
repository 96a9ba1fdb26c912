"""What a run reports: `<run>/metrics.jsonl`, TensorBoard curves, a line of progress on the console.

In: numbers by step. Out, from the first process: one JSON object a line; `step` counts finished steps. When a run
resumes, lines of later steps are removed, so that no step appears twice.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fourm_engine.files import write_atomically
from fourm_plugins.extras import optional


class Metrics:
    """`step` is where the run goes on. `active` is false in all processes but the first: they write nothing."""

    def __init__(self, run: Path, *, step: int, steps: int, tensorboard: bool = False, active: bool = True) -> None:
        self.active = active
        self.steps = steps
        self._window = _Window(step)
        self._writer: Any = None
        if not active:
            return
        run.mkdir(parents=True, exist_ok=True)
        path = run / "metrics.jsonl"
        _truncate(path, step, last=step == steps)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (kept open for the run)
        if tensorboard:
            self._writer = _tensorboard(run / "tensorboard", step)

    def add(
        self, loss: float, sums: Mapping[str, float], counts: Mapping[str, float], *, samples: int, tokens: int
    ) -> None:
        """One finished step, to be averaged into the next line."""
        self._window.add(loss, sums, counts, samples=samples, tokens=tokens)

    def line(self, step: int, *, lr: float, norm: float, skipped: int) -> None:
        """Write and print what was added since the last line."""
        window, self._window = self._window, _Window(step)
        if not self.active or window.number == 0:
            return
        row = window.row(step, lr=lr, norm=norm, skipped=skipped)
        self._write(row)
        width = len(str(self.steps))
        parts = [f"step {step:{width}d}/{self.steps}", f"loss {_short(row['loss'])}"]
        parts += [f"{name} {_short(value)}" for name, value in row["losses"].items()]
        parts.append(f"lr {lr:.2e}")
        parts.append(f"{row['samples_per_s']:.3g} samples/s")
        if "tokens_per_s" in row:
            parts.append(f"{row['tokens_per_s']:.3g} tokens/s")
        if skipped:
            parts.append(f"{skipped} skipped")
        seconds = (self.steps - step) * window.seconds() / window.number
        parts.append(f"{duration(seconds)} left")
        print("  ".join(parts), flush=True)

    def scores(self, step: int, scores: Mapping[str, float]) -> None:
        """Write and print an evaluation."""
        if self.active:
            self._write({"step": step, "eval": {name: _finite(value) for name, value in scores.items()}})
            print("  ".join(["  held out", *(f"{name} {_short(value)}" for name, value in scores.items())]), flush=True)

    def close(self) -> None:
        if self.active:
            self._file.close()
        if self._writer is not None:
            self._writer.close()

    def _write(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        if self._writer is not None:
            for key, value in row.items():
                for name, number in value.items() if isinstance(value, dict) else [("", value)]:
                    if number is not None and key != "step":
                        self._writer.add_scalar(f"{key}/{name}".rstrip("/"), number, row["step"])


class _Window:
    """Sums since the last line."""

    def __init__(self, step: int) -> None:
        self.step, self.number, self.loss, self.samples, self.tokens = step, 0, 0.0, 0, 0
        self.sums: dict[str, float] = {}
        self.counts: dict[str, float] = {}
        self.start = time.monotonic()

    def add(
        self, loss: float, sums: Mapping[str, float], counts: Mapping[str, float], *, samples: int, tokens: int
    ) -> None:
        self.number += 1
        self.loss += loss
        self.samples += samples
        self.tokens += tokens
        for name, total in sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + total
            self.counts[name] = self.counts.get(name, 0.0) + counts[name]

    def seconds(self) -> float:
        return max(time.monotonic() - self.start, 1e-9)

    def row(self, step: int, *, lr: float, norm: float, skipped: int) -> dict[str, Any]:
        seconds = self.seconds()
        losses = {name: self.sums[name] / self.counts[name] for name in sorted(self.sums) if self.counts[name] > 0}
        row: dict[str, Any] = {
            "step": step,
            "loss": _finite(self.loss / self.number),
            "losses": {name: _finite(value) for name, value in losses.items()},
            "lr": lr,
            "gradient_norm": _finite(norm),
            "skipped": skipped,
            "samples_per_s": self.samples / seconds,
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
    """Keep the lines of steps up to `step`, but for the evaluation of the last one, which is made again; a line cut
    short by a kill goes, too."""
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


def _tensorboard(folder: Path, step: int) -> Any:
    optional("tensorboard", what="train.tensorboard needs", install="fourm-engine[tensorboard]")
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=step + 1)


def _finite(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None


def _short(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"

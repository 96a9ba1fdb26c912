"""Loss curves as inline SVG: one small chart a curve, readable on a phone, coloured by the page's own CSS.

In: `metrics.jsonl` of a run. Out: SVG text in which every word is escaped.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

WIDTH, HEIGHT = 300, 150
LEFT, RIGHT, TOP, BOTTOM = 40, 8, 22, 18
#: Points a curve is thinned to; each is the mean of its neighbourhood, so that noise does not hide the course.
POINTS = 150


@dataclass
class Curve:
    """One quantity over steps, in training and on held-out samples: (step, value) pairs."""

    name: str
    train: list[tuple[float, float]] = field(default_factory=list)
    held_out: list[tuple[float, float]] = field(default_factory=list)


def read_curves(path: Path) -> list[Curve]:
    """The loss, then the loss of each modality, from the lines that training wrote; [] where there are none. Unreadable
    lines (the last one of a killed run) are left out."""
    curves = {"loss": Curve("loss")}
    for row in _rows(path):
        step = row["step"]
        for name, value in [("loss", row.get("loss")), *row.get("losses", {}).items()]:
            if value is not None:
                curves.setdefault(name, Curve(name)).train.append((step, value))
        for name, value in row.get("eval", {}).items():
            if value is not None:
                curves.setdefault(name, Curve(name)).held_out.append((step, value))
    return [curve for curve in curves.values() if curve.train or curve.held_out]


def training_seconds(path: Path, batch_size: int) -> float | None:
    """Time spent on training steps, summed over the run's interruptions, from the recorded throughput."""
    total, before = 0.0, 0
    for row in _rows(path):
        if rate := row.get("samples_per_s"):
            total += max(0, row["step"] - before) * batch_size / rate
            before = row["step"]
    return total or None


def _rows(path: Path) -> list[dict[str, Any]]:
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


def thin(points: Sequence[tuple[float, float]], number: int = POINTS) -> list[tuple[float, float]]:
    """At most `number` points: means over equal runs of neighbours."""
    if len(points) <= number:
        return list(points)
    bounds = [round(k * len(points) / number) for k in range(number + 1)]
    groups = [points[a:b] for a, b in pairwise(bounds)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def draw(curve: Curve) -> str:
    """The curve as one <svg>; '' when there is nothing to draw."""
    train, held_out = thin(curve.train), thin(curve.held_out)
    points = train + held_out
    if not points:
        return ""
    (x0, x1), (y0, y1) = _range(x for x, _ in points), _range(y for _, y in points)

    def place(point: tuple[float, float]) -> str:
        x = LEFT + (point[0] - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)
        y = HEIGHT - BOTTOM - (point[1] - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)
        return f"{x:.1f},{y:.1f}"

    parts = [
        f'<svg class="curve" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(curve.name)}">',
        f'<text class="name" x="{LEFT}" y="14">{html.escape(curve.name)}</text>',
    ]
    for y in (y0, (y0 + y1) / 2, y1):
        _, at = place((x0, y)).split(",")
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 4}" y="{float(at) + 3:.1f}" text-anchor="end">{y:.3g}</text>')
    for x, anchor in ((x0, "start"), (x1, "end")):
        at, _ = place((x, y0)).split(",")
        parts.append(f'<text class="tick" x="{at}" y="{HEIGHT - 5}" text-anchor="{anchor}">{x:.0f}</text>')
    for name, line in (("train", train), ("heldout", held_out)):
        if len(line) > 1:
            parts.append(f'<polyline class="{name}" points="{" ".join(map(place, line))}"/>')
        elif line:
            cx, cy = place(line[0]).split(",")
            parts.append(f'<circle class="{name}" cx="{cx}" cy="{cy}" r="3"/>')
    return "".join([*parts, "</svg>"])


def _range(numbers: Iterable[float]) -> tuple[float, float]:
    values = list(numbers)
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)

"""Loss curves as inline SVG, one small chart per curve, drawn by matplotlib.

In: `metrics.jsonl` of a run. Out: SVG text in which every word is escaped.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from fourm_engine.evaluate.metrics_file import Line, read_lines
from fourm_plugins.extras import optional

#: Readable on a light page and on a dark one.
COLOURS = {"train": "#7a9bcb", "held_out": "#e0662a", "text": "#808893", "grid": "#80889344"}
#: The unit of a model's losses.
NATS = "nats per token"
#: Points of a thinned curve; averaging neighbours reveals the trend behind the noise.
POINTS = 150


@dataclass
class Curve:
    """One quantity over steps, in training and on held-out samples: (step, value) pairs."""

    name: str
    train: list[tuple[float, float]] = field(default_factory=list)
    held_out: list[tuple[float, float]] = field(default_factory=list)


def read_curves(path: Path) -> list[Curve]:
    """The loss, then the loss of each modality, from `metrics.jsonl`; [] if there is none. Skips unreadable lines, such
    as the last one of a killed run."""
    return curves_of(read_lines(path), lambda line: line.step)


def curves_of(lines: Iterable[Line], at: Callable[[Line], float | None]) -> list[Curve]:
    """The curves of `lines`; `at` gives the position of a line on the axis, or None to leave it out."""
    curves = {"loss": Curve("loss")}
    for line in lines:
        if (x := at(line)) is None:
            continue
        train = {"loss": line.numbers["loss"]} if "loss" in line.numbers else {}
        for name, value in (train | line.losses).items():
            curves.setdefault(name, Curve(name)).train.append((x, value))
        for name, value in line.held_out.items():
            curves.setdefault(name, Curve(name)).held_out.append((x, value))
    return [curve for curve in curves.values() if curve.train or curve.held_out]


def training_seconds(path: Path, batch_size: int) -> float | None:
    """Seconds spent on training steps, over all resumes of a run, from the recorded throughput."""
    total, before = 0.0, 0
    for line in read_lines(path):
        if rate := line.numbers.get("samples_per_s"):
            total += max(0, line.step - before) * batch_size / rate
            before = line.step
    return total or None


def thin(points: Sequence[tuple[float, float]], number: int = POINTS) -> list[tuple[float, float]]:
    """At most `number` points, each the mean of equally many neighbours."""
    if len(points) <= number:
        return list(points)
    bounds = [round(k * len(points) / number) for k in range(number + 1)]
    groups = [points[a:b] for a, b in pairwise(bounds)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def check_matplotlib() -> Any:
    """Returns matplotlib. Raises ValueError if it is not installed, so call it before long work."""
    return optional("matplotlib", what="loss curves need", install="fourm-engine[report]")


def draw(curve: Curve) -> str:
    """The curve as one <svg>; '' if there is nothing to draw. Raises ValueError if matplotlib is not installed."""
    lines = [("train", thin(curve.train)), ("held_out", thin(curve.held_out))]
    if not any(points for _, points in lines):
        return ""
    matplotlib = check_matplotlib()
    from matplotlib.figure import Figure

    style = {"svg.fonttype": "none", "svg.hashsalt": curve.name, "font.size": 7, "font.family": "sans-serif"}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(3, 1.7), layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(curve.name, loc="left", color=COLOURS["text"], parse_math=False)
        axes.set_xlabel("step", color=COLOURS["text"])
        axes.set_ylabel(NATS, color=COLOURS["text"])
        axes.patch.set_visible(False)
        axes.spines[:].set_visible(False)
        # No marks at the ticks and nothing clipped: either would make the page refer to parts of itself by url().
        axes.tick_params(length=0, left=False, bottom=False, colors=COLOURS["text"])
        axes.grid(axis="y", color=COLOURS["grid"], clip_on=False)
        axes.locator_params(nbins=3)
        for name, points in lines:
            steps, values = [p[0] for p in points], [p[1] for p in points]
            if len(points) > 1:
                axes.plot(steps, values, color=COLOURS[name], linewidth=1.2, clip_on=False)
            else:
                axes.scatter(steps, values, color=COLOURS[name], s=9, clip_on=False)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return text.getvalue()[text.getvalue().index("<svg") :]

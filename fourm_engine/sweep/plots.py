"""Pictures of a sweep: learning curves, the measure along each axis, and scaling plots, with error bars over seeds.

In: `Results`. Out: PNG and SVG. Bars and bands are one standard deviation over seeds to either side.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from statistics import linear_regression, mean, stdev
from typing import Any

from fourm_engine.evaluate.charts import check_matplotlib
from fourm_engine.files import write_atomically
from fourm_engine.sweep.results import Group, Results, numeric_axes
from fourm_engine.sweep.trial import short_names, shown
from fourm_engine.sweep.trial_metrics import MEASURED

#: Maximum number of lines in a picture, and of names along an axis; more cannot be told apart.
MAX_LINES, MAX_NAMES = 10, 24
FORMATS = ("png", "svg")
#: Up to this many evaluations are marked on a curve.
FEW = 20
#: An axis is logarithmic from this ratio of the largest to the smallest value.
WIDE = 8
_STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "fourm", "font.size": 9, "font.family": "sans-serif"}
_METADATA: dict[str, Any] = {"png": {"Software": None}, "svg": {"Date": None}}
#: A point of a line with error bars: x, mean, deviation.
Point = tuple[float, float, float]


def draw_all(report: Results, out: Path, scaling: Sequence[str] = ()) -> tuple[list[Path], list[str]]:
    """Write the pictures to `out`; returns the PNGs, and for each picture without content a line that says why.
    `scaling`: axes, or names of `MEASURED`, along which to draw the measure on logarithmic scales. Raises ValueError if
    matplotlib is not installed."""
    check_matplotlib()
    axes = list(dict.fromkeys(key for group in report.groups for key in group.point))
    short, numeric = short_names(axes), numeric_axes(report.groups)
    written, empty = _write(out / "curves", partial(_curves, report=report)), list[str]()
    if not written and any(result.metrics.curve for group in report.groups for result in group.results):
        empty.append("no picture of curves: no trial has two evaluations; lower train.eval_every")
    for key in axes:
        draw = partial(_numbers if key in numeric else _names, report=report, key=key)
        written += _write(out / f"by-{_file(short[key])}", draw)
    for what in scaling:
        drawn = _write(out / f"scaling-{_file(short.get(what, what))}", partial(_scaling, report=report, what=what))
        written += drawn
        if not drawn and any(group.mean is not None for group in report.groups):
            empty.append(f"no picture of scaling: fewer than two trials differ in {what}")
    return written, empty


def draw_along(report: Results, key: str, stem: Path) -> list[Path]:
    """Write `stem`.png and .svg: the measure over a numeric axis; returns the PNG, [] for less than two values. Raises
    ValueError if matplotlib is not installed."""
    check_matplotlib()
    return _write(stem, partial(_numbers, report=report, key=key))


def _file(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name)[:80]


def _write(stem: Path, draw: Callable[[Any], bool]) -> list[Path]:
    """Draw one panel and write it as PNG and SVG. Returns the PNG, or [] if `draw` has nothing to show."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 4.0), layout="constrained", dpi=130)
        panel = figure.add_subplot()
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
        if not draw(panel):
            return []
        handles, labels = panel.get_legend_handles_labels()
        if any(labels):
            legend = figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize="small")
            for text in legend.get_texts():
                text.set_parse_math(False)
        for kind in FORMATS:
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, metadata=_METADATA[kind])
            write_atomically(stem.with_name(f"{stem.name}.{kind}"), buffer.getvalue())
    return [stem.with_name(f"{stem.name}.png")]


def _label(group: Group, without: Collection[str] = ()) -> str:
    """The values of a point along its axes, except some; numbers and lists are prefixed with the axis."""
    short = short_names(list(group.point))
    return ", ".join(
        f"{short[key]} {shown(value)}" if isinstance(value, int | float | list) else shown(value)
        for key, value in group.point.items()
        if key not in without
    )


def _axes(panel: Any, x: str, report: Results, spread: bool) -> None:
    better = "lower" if report.measure.goal == "min" else "higher"
    panel.set_xlabel(x, parse_math=False)
    panel.set_ylabel(f"{report.measure.key} ({better} is better)", parse_math=False)
    if spread:
        panel.set_title("mean ± one standard deviation over seeds", loc="left", fontsize="small")


def _curves(panel: Any, *, report: Results) -> bool:
    """The measure over steps, the best points first, with a band if there are several seeds."""
    from matplotlib.ticker import MaxNLocator

    over, spread = set(report.over), False
    drawn = [g for g in report.ranked if any(len(r.metrics.curve) > 1 for r in g.results)][:MAX_LINES]
    for number, group in enumerate(drawn):
        at: dict[int, list[float]] = {}
        for result in group.results:
            for step, terms in result.metrics.curve:
                if values := [value for name, value in terms.items() if name in over]:
                    at.setdefault(step, []).append(mean(values))
        x, colour = sorted(at), f"C{number % 10}"
        y = [mean(at[step]) for step in x]
        deviations = [stdev(at[step]) if len(at[step]) > 1 else 0.0 for step in x]
        marker = "o" if len(x) <= FEW else None
        panel.plot(x, y, color=colour, label=_label(group), linewidth=1.4, marker=marker, markersize=3.5)
        if any(deviations):
            low, high = ([b + sign * d for b, d in zip(y, deviations, strict=True)] for sign in (-1, 1))
            panel.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
            spread = True
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    _axes(panel, "step", report, spread)
    return bool(drawn)


def _lines(
    report: Results, x: Callable[[Group], Any], without: Collection[str], *, positive: bool = False
) -> dict[str, list[Point]]:
    """{label: points}: a line for each combination of values on the axes that are not in `without`."""
    lines: dict[str, list[Point]] = {}
    for group in report.ranked:
        at, value = x(group), group.mean
        if not isinstance(at, int | float) or value is None or (positive and min(at, value) <= 0):
            continue
        lines.setdefault(_label(group, without), []).append((float(at), value, group.deviation or 0.0))
    return {name: sorted(points) for name, points in sorted(lines.items())}


def _draw(panel: Any, report: Results, lines: dict[str, list[Point]], x: str, *, joined: bool) -> None:
    points = [point for line in lines.values() for point in line]
    for number, (name, line) in enumerate(list(lines.items())[:MAX_LINES]):
        at, y, spread = ([p[i] for p in line] for i in range(3))
        bars = spread if any(spread) else None
        style: Any = {"fmt": "-o" if joined else "o", "capsize": 3, "markersize": 4, "linewidth": 1.2}
        panel.errorbar(at, y, yerr=bars, color=f"C{number % 10}", label=name, **style)
    _axes(panel, x, report, any(deviation for *_, deviation in points))


def _ticks(axis: Any, values: Sequence[float]) -> None:
    """Put ticks at the values, in a readable format, if there are few."""
    from matplotlib.ticker import EngFormatter, NullFormatter, NullLocator

    if len(values) <= MAX_LINES:
        large = EngFormatter(sep="")
        axis.set_ticks(values, [large(value) if value >= 10_000 else f"{value:.4g}" for value in values])
        axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def _scattered(report: Results) -> set[str]:
    """Axes of random draws, which are shown as points, without a line."""
    return {name for name, values in numeric_axes(report.groups).items() if len(values) > MAX_LINES}


def _numbers(panel: Any, *, report: Results, key: str) -> bool:
    scattered = _scattered(report)
    lines = _lines(report, lambda group: group.point.get(key), {key, *scattered})
    values = sorted({x for points in lines.values() for x, *_ in points})
    if len(values) < 2:
        return False
    if values[0] > 0 and values[-1] / values[0] >= WIDE:
        panel.set_xscale("log")
    if key not in scattered:
        _ticks(panel.xaxis, values)
    _draw(panel, report, lines, key, joined=not scattered)
    return True


def _names(panel: Any, *, report: Results, key: str) -> bool:
    """The measure over a non-numeric axis, best value first."""
    groups = [group for group in report.ranked if group.mean is not None and key in group.point]
    names = list(dict.fromkeys(shown(group.point[key]) for group in groups))[:MAX_NAMES]
    scattered = _scattered(report)

    def at(group: Group) -> int | None:
        name = shown(group.point[key]) if key in group.point else None
        return names.index(name) if name in names else None

    lines = _lines(report, at, {key, *scattered})
    if not names:
        return False
    width = min(0.6, 0.08 * (len(lines) - 1))
    moved = {
        name: [(x + width * (number / max(1, len(lines) - 1) - 0.5), y, d) for x, y, d in points]
        for number, (name, points) in enumerate(lines.items())
    }
    panel.set_xticks(range(len(names)), names, rotation=20 if max(map(len, names)) > 8 else 0, parse_math=False)
    panel.margins(x=0.15)
    _draw(panel, report, moved, key, joined=False)
    return True


def _scaling(panel: Any, *, report: Results, what: str) -> bool:
    """A plot with logarithmic axes. Lines of three points or more are labelled with their fitted power law."""
    from matplotlib.ticker import MaxNLocator, NullLocator, StrMethodFormatter

    measures = what in MEASURED
    along = set(numeric_axes(report.groups)) if measures else {what}
    lines = _lines(report, lambda g: g.number(what) if measures else g.point.get(what), along, positive=True)
    values = sorted({x for points in lines.values() for x, *_ in points})
    if len(values) < 2:
        return False
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.yaxis.set_major_locator(MaxNLocator(6))
    panel.yaxis.set_major_formatter(StrMethodFormatter("{x:.4g}"))
    panel.yaxis.set_minor_locator(NullLocator())
    _ticks(panel.xaxis, sorted({float(f"{value:.2g}") for value in values} if measures else values))
    with_laws = {}
    for name, points in lines.items():
        law = power_law([(x, y) for x, y, _ in points])
        with_laws[name if law is None else f"{name} ∝ x^{law:.3f}".strip()] = points
    _draw(panel, report, with_laws, what, joined=True)
    return True


def power_law(points: Sequence[tuple[float, float]]) -> float | None:
    """The exponent b of the power law y = a·x^b, fitted by least squares on the logarithms; None for fewer than three
    distinct x."""
    if len({x for x, _ in points}) < 3:
        return None
    return linear_regression([math.log(x) for x, _ in points], [math.log(y) for _, y in points]).slope

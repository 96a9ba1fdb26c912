"""The curves of several runs in one picture: a panel per loss, a colour per run; dots are held-out losses.

In: curves by run. Out: a file: .png, .svg or .pdf, or a page (.html) with the picture inside.
"""

from __future__ import annotations

import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fourm_engine.evaluate.charts import Curve, check_matplotlib, thin
from fourm_engine.files import write_atomically

FORMATS = (".png", ".svg", ".pdf", ".html")
COLUMNS = 3
#: Maximum number of panels of a picture; further losses are skipped, with a note.
MAX_PANELS = 30


def draw_runs(path: Path, runs: Mapping[str, Sequence[Curve]], *, axis: str, unit: str) -> list[str]:
    """Writes the curves of `runs`, {name: curves}, with the axis labels `axis` and `unit`. Returns a note on skipped
    curves. Raises ValueError if matplotlib is not installed, for another extension, and if there is no curve."""
    if path.suffix not in FORMATS:
        raise ValueError(f"{path}: expected a name that ends in {', '.join(FORMATS)}")
    check_matplotlib()
    names = list(dict.fromkeys(curve.name for curves in runs.values() for curve in curves))
    if not names:
        raise ValueError("no run has a curve yet; nothing to draw")
    left_out = [f"{', '.join(names[MAX_PANELS:])}: left out of the picture"] if len(names) > MAX_PANELS else []
    names = names[:MAX_PANELS]
    kind = "svg" if path.suffix == ".html" else path.suffix[1:]
    content = _figure(runs, names, axis, unit, kind)
    if path.suffix == ".html":
        text = content.decode()
        title = html.escape(" – ".join(runs))
        page = f'<!doctype html>\n<meta charset="utf-8">\n<title>{title}</title>\n{text[text.index("<svg") :]}\n'
        content = page.encode()
    write_atomically(path, content)
    return left_out


def _figure(runs: Mapping[str, Sequence[Curve]], names: Sequence[str], axis: str, unit: str, kind: str) -> bytes:
    import matplotlib
    from matplotlib.figure import Figure

    columns = min(COLUMNS, len(names))
    rows = -(-len(names) // columns)
    style: Any = {"svg.fonttype": "none", "svg.hashsalt": "fourm", "font.size": 8, "font.family": "sans-serif"}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(4 * columns, 2.4 * rows + 0.2 + 0.2 * len(runs)), layout="constrained", dpi=120)
        panels = figure.subplots(rows, columns, squeeze=False)
        colours = [f"C{k % 10}" for k in range(len(runs))]
        handles: dict[str, Any] = {}
        for panel, name in zip(panels.flat, names, strict=False):
            panel.set_title(name, loc="left", parse_math=False)
            panel.grid(alpha=0.3)
            panel.spines[["top", "right"]].set_visible(False)
            for (run, curves), colour in zip(runs.items(), colours, strict=True):
                for curve in (curve for curve in curves if curve.name == name):
                    (line,) = panel.plot(*_columns(thin(curve.train)), color=colour, linewidth=1.1)
                    panel.plot(*_columns(curve.held_out), "o", color=colour, markersize=3.5)
                    handles.setdefault(run, line)
        for panel in panels.flat[len(names) :]:
            panel.set_visible(False)
        figure.supxlabel(axis, fontsize="medium")
        figure.supylabel(unit, fontsize="medium")
        legend = figure.legend(handles.values(), list(handles), loc="outside upper left", frameon=False, ncols=2)
        legend.set_title("lines: training, dots: held out")
        legend.set_alignment("left")
        for text in legend.get_texts():
            text.set_parse_math(False)
        buffer = io.BytesIO()
        metadata = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[kind]
        figure.savefig(buffer, format=kind, metadata=metadata)
    return buffer.getvalue()


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]

"""The report: one self-contained HTML file from the template `report.html.jinja`.

Jinja escapes every text of data (captions, names, notes); pictures are PNG data URIs, charts are inline SVG.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fourm_engine.drawing import data_uri
from fourm_engine.evaluate.charts import COLOURS, Curve, draw
from fourm_engine.evaluate.pictures import SMALL, SamplePictures
from fourm_engine.evaluate.results import NOTHING, Cell, Evaluation, TaskResult
from fourm_plugins.counting import decimals, number


def page_of(
    evaluation: Evaluation,
    pictures: Mapping[str, Sequence[SamplePictures]],
    curves: Sequence[Curve],
    *,
    title: str,
) -> str:
    """The page. `pictures`: task -> its samples. Raises ValueError if there are curves to draw and matplotlib is not
    installed."""
    page = environment().get_template("report.html.jinja")
    charts = [svg for curve in curves if (svg := draw(curve))]
    facts: dict[str, Any] = {"evaluation": evaluation, "pictures": pictures, "charts": charts, "title": title}
    return page.render(colours=COLOURS, NOTHING=NOTHING, **facts) + "\n"


def environment() -> Environment:
    """The Jinja environment of this folder, with filters; all text of data is escaped."""
    loader = PackageLoader("fourm_engine.evaluate", ".")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals |= {"SMALL": SMALL}
    environment.filters |= {
        "constant_names": _constant_names,
        "data_uri": data_uri,
        "decimals": decimals,
        "fact": _fact,
        "fact_names": lambda tokenizers: list(dict.fromkeys(name for facts in tokenizers.values() for name in facts)),
        "measure": _measure,
        "number": number,
        "shade": _shade,
    }
    return environment


def _constant_names(task: TaskResult) -> list[str]:
    return list(dict.fromkeys(name for scores in task.scores.values() for s in scores for name in s.constants))


def _fact(value: Any) -> str:
    """Formats a fact of the run: "fourm-x 0.1, fourm-y 0.2", "12,345"."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {inner}" for name, inner in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _measure(value: Any) -> str:
    """Formats a fact of a tokenizer."""
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_measure(inner)}" for name, inner in value.items())
    return number(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)


def _shade(cell: Cell) -> Markup:
    """The background of a matrix cell, stronger for a larger share of nats gained or lost."""
    colour = "good" if cell.lowers else "bad" if cell.raises else ""
    if not colour:
        return Markup("")
    strength = min(0.75, 0.12 + abs(cell.difference) / max(cell.nats - cell.difference, 1e-9))
    return Markup(f' style="background: rgb(var(--{colour}) / {strength:.2f})"')

"""The report: one HTML file that needs nothing beside it, readable on a phone, light and dark.

In: an `Evaluation`, the pictures of its tasks, the run's loss curves. Out: `report.html`, written atomically. Every text of
data (captions, names, notes) is escaped; pictures are PNG data URIs.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fourm_engine.evaluate.charts import Curve, draw
from fourm_engine.evaluate.pictures import SMALL, SamplePictures, data_uri
from fourm_engine.evaluate.results import NOTHING, Cell, Evaluation, Matrix, TaskResult, write_atomically

STYLE = """
:root { color-scheme: light dark; --fg: #1c1f23; --soft: #667; --bg: #fff; --line: #d9dce1; --card: #f6f7f9;
  --train: #9bb4d8; --held: #c2410c; --good: 22 140 80; --bad: 200 50 50; }
@media (prefers-color-scheme: dark) { :root { --fg: #e6e8eb; --soft: #9aa3ad; --bg: #14171a; --line: #333a41;
  --card: #1d2126; --train: #4f6f9f; --held: #fb923c; --good: 40 170 100; --bad: 220 80 80; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 84rem; color: var(--fg); background: var(--bg);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: .2rem 0; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .4rem; }
h3 { font-size: 1.02rem; margin: 1.4rem 0 .3rem; }
p { margin: .3rem 0 .7rem; max-width: 70ch; } .soft, figcaption, th small { color: var(--soft); }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child, .left { text-align: left; } thead th { vertical-align: bottom; }
td.best { font-weight: 600; } td small { display: block; color: var(--soft); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: .5rem 0; font-size: .9rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
.sample { background: var(--card); border-radius: .5rem; padding: .6rem .7rem; margin: .6rem 0; }
.sample > .soft { font-size: .8rem; } .groups { display: flex; flex-wrap: wrap; gap: .8rem 1.4rem; align-items: flex-start; }
.group > b { font-size: .85rem; } .trio { display: flex; gap: .35rem; flex-wrap: wrap; }
figure { margin: 0; width: 8rem; } figure.text { width: 11.5rem; }
figure img { width: 100%; display: block; border-radius: .2rem; } img.small { image-rendering: pixelated; }
figcaption { font-size: .75rem; } blockquote { margin: 0; padding: .3rem .5rem; border-left: 3px solid var(--line);
  font-size: .82rem; overflow-wrap: anywhere; white-space: pre-wrap; }
.curves { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: .6rem; }
.curve { width: 100%; background: var(--card); border-radius: .4rem; }
.curve .grid { stroke: var(--line); } .curve polyline { fill: none; stroke-width: 1.6; }
.curve .train { stroke: var(--train); } .curve .heldout { stroke: var(--held); } .curve circle { fill: var(--held); }
.curve text { fill: var(--soft); font: 10px system-ui, sans-serif; } .curve .name { fill: var(--fg); font-size: 12px; }
.key { display: inline-block; width: 1.4em; height: .25em; vertical-align: middle; margin-right: .3em; }
@media (max-width: 34rem) { figure { width: 6.1rem; } figure.text { width: 9.5rem; } body { padding: .7rem; } }
"""


def write_report(
    path: Path,
    evaluation: Evaluation,
    pictures: Mapping[str, Sequence[SamplePictures]],
    curves: Sequence[Curve],
    *,
    title: str,
) -> None:
    """`pictures`: task -> its samples."""
    sections = [
        f"<h1>{html.escape(title)}</h1>",
        _facts(evaluation.run),
        _notes(evaluation.notes),
        "<h2>Predictions on held-out samples</h2>",
        *(_task_pictures(task, pictures.get(task.name, ())) for task in evaluation.tasks),
        "<h2>In each modality’s own metric</h2>",
        "<p class=soft>Beside the best predictors that look at nothing, fitted on training samples, and the tokenizer’s "
        "ceiling: the ground truth, encoded and decoded. “×” is the prediction over the simplest constant. "
        "↓ less is better, ↑ more is better.</p>",
        *(_score_table(task) for task in evaluation.tasks),
        _matrix_section(evaluation.matrix),
        _tokenizer_section(evaluation.tokenizers),
        _curve_section(curves),
    ]
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>{''.join(sections)}</body></html>\n"
    )
    write_atomically(path, page)


def number(value: float | None) -> str:
    """Three significant digits; a dash for what is not known."""
    if value is None or value != value:
        return "–"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _facts(facts: Mapping[str, Any]) -> str:
    def show(value: Any) -> str:
        if isinstance(value, Mapping):
            return ", ".join(f"{name} {inner}" for name, inner in value.items())
        if isinstance(value, (list, tuple)):
            return ", ".join(map(str, value))
        return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)

    rows = (f"<dt>{html.escape(name)}</dt><dd>{html.escape(show(value))}</dd>" for name, value in facts.items())
    return f"<dl>{''.join(rows)}</dl>"


def _notes(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    return "<h2>Notes</h2><ul>" + "".join(f"<li>{html.escape(note)}</li>" for note in notes) + "</ul>"


def _figure(content: Any, caption: str) -> str:
    if content is None:
        return ""
    words = f"<figcaption>{html.escape(caption)}</figcaption>"
    if isinstance(content, str):
        return f'<figure class="text">{words}<blockquote>{html.escape(content) or "∅"}</blockquote></figure>'
    small = ' class="small"' if max(content.size) < SMALL else ""
    return f'<figure>{words}<img{small} alt="{html.escape(caption)}" src="{data_uri(content)}"></figure>'


def _task_pictures(task: TaskResult, samples: Sequence[SamplePictures]) -> str:
    if not samples:
        return ""
    parts = [f"<h3>{html.escape(task.name)}</h3>"]
    for sample in samples:
        groups = [_group("given", [_figure(shown, name) for name, shown in sample.inputs.items()])]
        for out in sample.outputs:
            trio = [(out.prediction, "prediction"), (out.truth, "ground truth"), (out.ceiling, "tokenizer’s ceiling")]
            groups.append(_group(out.target, [_figure(content, caption) for content, caption in trio]))
        head = f"<div class=soft>{html.escape(sample.sample)}</div>"
        parts.append(f'<div class="sample">{head}<div class="groups">{"".join(groups)}</div></div>')
    return "".join(parts)


def _group(name: str, figures: Iterable[str]) -> str:
    return f'<div class="group"><b>{html.escape(name)}</b><div class="trio">{"".join(figures)}</div></div>'


def _score_table(task: TaskResult) -> str:
    names = list(dict.fromkeys(name for scores in task.scores.values() for s in scores for name in s.constants))
    head = ["target", "metric", "prediction", *names, "ceiling", "×"]
    body = []
    for target, scores in task.scores.items():
        for k, score in enumerate(scores):
            arrow = "↑" if score.higher_is_better else "↓"
            metric = f"{score.metric} {f'({score.unit}) ' if score.unit else ''}{arrow}"
            part = " (partly given)" if target in task.keep else ""
            cells = [f"<td class=left>{html.escape(target + part) if k == 0 else ''}</td>"]
            cells.append(f"<td class=left>{html.escape(metric)}</td>")
            cells.append(f"<td class=best>{number(score.prediction)}</td>")
            cells += [f"<td>{number(score.constants.get(name))}</td>" for name in names]
            cells += [f"<td>{number(score.ceiling)}</td>", f"<td>{number(score.ratio) if score.ratio else ''}</td>"]
            body.append(f"<tr>{''.join(cells)}</tr>")
    given = ", ".join(f"{name} ({task.keep[name]})" if name in task.keep else name for name in task.inputs)
    caption = f"given {given}; {task.samples} held-out samples"
    return f"<h3>{html.escape(task.name)}</h3><p class=soft>{html.escape(caption)}</p>{_table(head, body)}"


def _table(head: Iterable[str], rows: Iterable[str]) -> str:
    heads = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _matrix_section(matrix: Matrix | None) -> str:
    if matrix is None:
        return ""
    body = []
    for name in matrix.inputs:
        cells = "".join(_matrix_cell(name, matrix.cells[name].get(target)) for target in matrix.targets)
        body.append(f"<tr><td class=left>{html.escape(name)}</td>{cells}</tr>")
    words = (
        "<p class=soft>Held-out nats per token of the column’s modality when the row’s is shown in full and nothing else is. "
        f"Below: the difference to the first row ({NOTHING}), paired by sample, ± its standard error. Green is lower than "
        "with nothing by more than two standard errors, red is higher; the stronger, the larger the share of the nats.</p>"
    )
    table = _table(["given ↓  predicted →", *matrix.targets], body)
    return f"<h2>Any to any: nats per token</h2>{words}{table}"


def _matrix_cell(name: str, cell: Cell | None) -> str:
    if cell is None:
        return "<td>·</td>"
    if name == NOTHING:
        return f"<td>{cell.nats:.3f}<small>± {cell.error:.3f}</small></td>"
    nothing = max(cell.nats - cell.difference, 1e-9)
    strength = min(0.75, 0.12 + abs(cell.difference) / nothing)
    colour = "good" if cell.lowers else "bad" if cell.raises else ""
    style = f' style="background: rgb(var(--{colour}) / {strength:.2f})"' if colour else ""
    return f"<td{style}>{cell.nats:.3f}<small>{cell.difference:+.3f} ± {cell.difference_error:.3f}</small></td>"


def _tokenizer_section(tokenizers: Mapping[str, Mapping[str, Any]]) -> str:
    if not tokenizers:
        return ""
    names = list(dict.fromkeys(name for facts in tokenizers.values() for name in facts))
    body = []
    for space, facts in tokenizers.items():
        cells = "".join(f"<td>{html.escape(_fact(facts.get(name)))}</td>" for name in names)
        body.append(f"<tr><td class=left>{html.escape(space)}</td>{cells}</tr>")
    return f"<h2>Tokenizers</h2>{_table(['token space', *names], body)}"


def _fact(value: Any) -> str:
    if value is None:
        return ""
    return number(value) if isinstance(value, float) else str(value)


def _curve_section(curves: Sequence[Curve]) -> str:
    drawn = [svg for curve in curves if (svg := draw(curve))]
    if not drawn:
        return ""
    key = (
        "<p class=soft>Over optimiser steps. <span class=key style='background: var(--train)'></span>training "
        "<span class=key style='background: var(--held)'></span>held out</p>"
    )
    return f'<h2>Loss curves</h2>{key}<div class="curves">{"".join(drawn)}</div>'

"""The report: one HTML file that needs nothing beside it, readable on a phone, light and dark.

In: an `Evaluation`, the pictures of its tasks, the run's loss curves. Out: `report.html`, written atomically. Every
text of data (captions, names, notes) is escaped; pictures are PNG data URIs.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fourm_engine.evaluate.charts import Curve, draw
from fourm_engine.evaluate.pictures import SMALL, SamplePictures, data_uri
from fourm_engine.evaluate.results import NOTHING, Cell, Evaluation, Matrix, TaskResult
from fourm_engine.evaluate.style import STYLE
from fourm_engine.files import write_atomically


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
        "<p class=soft>The ceiling is the ground truth after the tokenizer’s encoder and decoder: the best that a "
        "prediction made of its tokens can look.</p>",
        *(_task_pictures(task, pictures.get(task.name, ())) for task in evaluation.tasks),
        "<h2>In each modality’s own metric</h2>",
        "<p class=soft>Beside the best predictors that look at nothing, fitted on training samples, and the "
        "tokenizer’s ceiling: the ground truth, encoded and decoded. “×” is the prediction over the simplest constant. "
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
            trio = [(out.prediction, "prediction"), (out.truth, "ground truth"), (out.ceiling, "ceiling")]
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
    table = _table(head, body, "scores")
    return f"<h3>{html.escape(task.name)}</h3><p class=soft>{html.escape(caption)}</p>{table}"


def _table(head: Iterable[str], rows: Iterable[str], style: str = "plain") -> str:
    heads = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    body = f"<thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f'<div class="scroll"><table class="{style}">{body}</table></div>'


def _matrix_section(matrix: Matrix | None) -> str:
    if matrix is None:
        return ""
    body = []
    for name in matrix.inputs:
        cells = "".join(_matrix_cell(name, matrix.cells[name].get(target)) for target in matrix.targets)
        body.append(f"<tr><td class=left>{html.escape(name)}</td>{cells}</tr>")
    words = (
        "<p class=soft>Held-out nats per token of the column’s modality when the row’s is shown in full and nothing "
        f"else. Below: the difference to the first row ({NOTHING}), paired by sample, ± its standard error. Green is "
        "lower by more than two standard errors, red is higher; the stronger, the larger the share.</p>"
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
    for modality, facts in tokenizers.items():
        cells = "".join(f"<td>{html.escape(_fact(facts.get(name)))}</td>" for name in names)
        body.append(f"<tr><td class=left>{html.escape(modality)}</td>{cells}</tr>")
    return f"<h2>Tokenizers on the held-out samples</h2>{_table(['modality', *names], body)}"


def _fact(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_fact(inner)}" for name, inner in value.items())
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

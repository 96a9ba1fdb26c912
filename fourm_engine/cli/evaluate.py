"""`fourm evaluate`: score a model's predictions on held-out samples, and show them in one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fourm_engine.cli.options import OtherConfig, Overrides
from fourm_engine.cli.tables import Table, constant_cell, metric_cell, show

if TYPE_CHECKING:
    from fourm_engine.evaluate.results import Evaluation, Matrix, TaskResult


def evaluate(
    run: Annotated[str, typer.Argument(help="Folder of a run, its best/, an exported model, or a Hub id.")],
    overrides: Overrides = None,
    *,
    config: OtherConfig = None,
    data: Annotated[  # str, since a Path would alter a URL
        str | None, typer.Option(metavar="DATA", help="Folder or URL of held-out samples, instead of data.val.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder for the report. Default: RUN/evaluation.")
    ] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Held-out samples to predict.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the samples and the generated tokens.")] = None,
    features: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Run whose encoder, or vision network (folder, Hub id) whose features, give Fréchet distances.",
        ),
    ] = None,
    agreement: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="Contrastive model (folder, Hub id): also measure how well pictures and texts agree."
        ),
    ] = None,
    draws: Annotated[int | None, typer.Option(min=2, max=64, help="Answers per input: also how they differ.")] = None,
    no_matrix: Annotated[bool, typer.Option("--no-matrix", help="Leave out the any-to-any matrix.")] = False,
    jobs: Annotated[int, typer.Option(min=1, max=256, help="Tasks at a time, each on one CPU thread.")] = 1,
) -> None:
    """Score a trained model on held-out samples, and write evaluation.json and report.html."""
    from fourm_engine.recipes import evaluate as recipe

    options: dict[str, Any] = {"config": config, "data": data, "out": out, "samples": samples, "seed": seed}
    options |= {"matrix": not no_matrix, "features": features, "agreement": agreement, "draws": draws, "jobs": jobs}
    report = recipe.evaluate(run, overrides or [], **options)
    print_summary(report.evaluation)
    print(report.folder / recipe.REPORT)


def print_summary(evaluation: Evaluation) -> None:
    """Print the scores and the matrix as tables."""
    tables = [_scores(task) for task in evaluation.tasks]
    tables += _agreement(evaluation) + _diversity(evaluation)
    if evaluation.matrix is not None:
        tables.append(_matrix(evaluation.matrix))
    show(tables, [f"note: {note}" for note in evaluation.notes])


def _scores(task: TaskResult) -> Table:
    from fourm_plugins.counting import number

    table = Table("target", "metric", "prediction", "best constant", "ceiling", "÷ constant", title=task.name)
    for target, scores in task.scores.items():
        for k, score in enumerate(scores):
            ratio = number(score.ratio) if score.ratio is not None else ""
            numbers = number(score.prediction), constant_cell(score), number(score.ceiling), ratio
            table.add_row(target if k == 0 else "", metric_cell(score), *numbers)
    return table


def _agreement(evaluation: Evaluation) -> list[Table]:
    from fourm_plugins.counting import number

    columns = ("task", "given", "target", "cosine", "of the truth", "with others", "nearest to its own", "truth")
    table = Table(*columns, title="agreement of what is predicted with what is given")
    for task in evaluation.tasks:
        for a in task.agreement:
            shares = f"{a.recall_at_1:.1%}", f"{a.truth_recall_at_1:.1%} (chance {1 / a.samples:.1%})"
            table.add_row(task.name, a.given, a.target, number(a.cosine), number(a.truth), number(a.others), *shares)
    return [table] if table.rows else []


def _diversity(evaluation: Evaluation) -> list[Table]:
    from fourm_plugins.counting import number

    columns = ("task", "target", "metric", "among samples", "to the truth", "among truths", "distinct")
    table = Table(*columns, title="how much samples of one input differ")
    for task in evaluation.tasks:
        for target, d in task.diversity.items():
            for k, s in enumerate(d.spreads):
                first = (task.name, target) if k == 0 else ("", "")
                distinct = f"{d.distinct:.2f} of {d.draws}" if k == 0 and d.distinct is not None else ""
                table.add_row(*first, metric_cell(s), number(s.among), number(s.error), number(s.apart), distinct)
    return [table] if table.rows else []


def _matrix(matrix: Matrix) -> Table:
    from fourm_engine.evaluate.results import NOTHING

    title = "nats per token; * less than with nothing given, by over 2 standard errors"
    table = Table("given", *matrix.targets, title=title)
    for name in matrix.inputs:
        cells = [matrix.cells[name].get(target) for target in matrix.targets]
        marks = ["·" if c is None else f"{c.nats:.2f}{'*' if c.lowers and name != NOTHING else ''}" for c in cells]
        table.add_row(name, *marks)
    return table

"""`fourm evaluate`: predictions of a trained model on held-out samples, scored and shown in one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:
    from fourm_engine.evaluate.results import Evaluation


def evaluate(
    run: Annotated[str, typer.Argument(help="Folder of a run, an exported model, or a Hub id.")],
    overrides: Annotated[Optional[list[str]], typer.Argument(help="section.key=value …")] = None,  # noqa: UP045
    *,
    config: Annotated[Optional[Path], typer.Option(help="Config in place of RUN/config.yaml.")] = None,  # noqa: UP045
    data: Annotated[Optional[Path], typer.Option(help="Held-out samples in place of data.val.")] = None,  # noqa: UP045
    out: Annotated[Optional[Path], typer.Option(help="Folder of the report; RUN/evaluation.")] = None,  # noqa: UP045
    samples: Annotated[Optional[int], typer.Option(min=1, help="Held-out samples to predict.")] = None,  # noqa: UP045
    seed: Annotated[Optional[int], typer.Option(help="Which samples, and what is drawn.")] = None,  # noqa: UP045
    matrix: Annotated[bool, typer.Option("--matrix/--no-matrix", help="Measure the any-to-any matrix.")] = True,
) -> None:
    """Score a trained model on held-out samples; write evaluation.json and report.html."""
    from fourm_engine.recipes.evaluate import REPORT, evaluate_run

    found = evaluate_run(
        run, overrides or [], config=config, data=data, out=out, samples=samples, seed=seed, matrix=matrix
    )
    print_summary(found.evaluation)
    print(found.folder / REPORT)


def print_summary(evaluation: Evaluation) -> None:
    """The scores and the matrix, as tables on the console."""
    import sys

    from rich.console import Console
    from rich.table import Table

    from fourm_engine.evaluate.report import number
    from fourm_engine.evaluate.results import NOTHING

    # A pipe has no width of its own; nothing should be cut there.
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    for task in evaluation.tasks:
        table = Table(
            "target", "metric", "prediction", "best constant", "ceiling", "×", title=task.name, title_justify="left"
        )
        for target, scores in task.scores.items():
            for k, score in enumerate(scores):
                arrow = "↑" if score.higher_is_better else "↓"
                constant = score.best_constant
                beside = f"{number(constant[1])} ({constant[0]})" if constant else ""
                metric = f"{score.metric} {arrow}" + (f" ({score.unit})" if score.unit else "")
                ratio = number(score.ratio) if score.ratio is not None else ""
                shown = target if k == 0 else ""
                table.add_row(shown, metric, number(score.prediction), beside, number(score.ceiling), ratio)
        console.print(table)
    if evaluation.matrix is not None:
        matrix = evaluation.matrix
        table = Table(
            "given", *matrix.targets, title="nats per token; * below nothing by 2 standard errors", title_justify="left"
        )
        for name in matrix.inputs:
            cells = [matrix.cells[name].get(target) for target in matrix.targets]
            marks = ["·" if c is None else f"{c.nats:.2f}{'*' if c.lowers and name != NOTHING else ''}" for c in cells]
            table.add_row(name, *marks)
        console.print(table)
    for note in evaluation.notes:
        console.print(f"note: {note}", markup=False)

"""`fourm extend`: add modalities to a trained model, and report what it forgets."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fourm_engine.cli.options import OtherConfig, Overrides
from fourm_engine.cli.tables import Table, show
from fourm_plugins.counting import counted, decimals

if TYPE_CHECKING:
    from fourm_engine.extend.report import Report


class Train(str, Enum):
    rows = "rows"
    lora = "lora"
    all = "all"


def extend(
    run: Annotated[str, typer.Argument(help="Folder of a finished run or exported model, or a Hub id.")],
    overrides: Overrides = None,
    *,
    add: Annotated[list[str], typer.Option(metavar="MODALITY", help="Modality to add; repeatable.")],
    train: Annotated[Train, typer.Option(help="The new rows, rows and LoRA adapters, or all weights.")] = Train.rows,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder of the new run. Default: RUN-<names>-<train>.")
    ] = None,
    config: OtherConfig = None,
) -> None:
    """Add modalities to a trained model: fit their tokenizers, tokenize, train, and compare predictions before and
    after. The same command resumes; torchrun spreads it over processes."""
    from fourm_engine.device import rank_and_world
    from fourm_engine.recipes import extend as recipe

    settings = recipe.extension_config(run, overrides or [], add=add, train=train.value, out=out, config=config)
    report = recipe.extend(settings)
    if rank_and_world()[0] == 0:
        print_report(report)
        print(settings.run)


def print_report(report: Report) -> None:
    """Print what was gained and forgotten as a table."""

    def number(value: float, error: float | None, sign: str = "") -> str:
        return decimals(value, 3, sign) + (f" ± {error:.3f}" if error is not None else "")

    title = (
        f"{report.source} + {', '.join(report.add)}, --train {report.train}, {counted(report.steps, 'step')}, "
        f"{report.trained_parameters:,} of {report.parameters:,} parameters; held-out nats per token ± standard error"
    )
    columns = ("modality", "case", "samples", "tokens", "before", "after", "change")
    table = Table(*columns, title=title)
    cases = {"known": "without the new", "new": "new", "given new": "from the new alone"}
    for row in report.rows:
        before, after = number(row.before, row.before_error), number(row.after, row.after_error)
        change = number(row.change, row.change_error, "+")
        table.add_row(row.modality, cases[row.case], f"{row.samples:,}", f"{row.tokens:,}", before, after, change)
    show([table], [f"took no part: {', '.join(report.not_measured)}"] if report.not_measured else [])

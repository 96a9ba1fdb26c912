"""Tables on the console."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from fourm_plugins.printable import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from fourm_engine.evaluate.results import Score, Spread


def console(width: int = 160) -> Console:
    """A console of the terminal's width, or of COLUMNS; `width` for a pipe, which has none."""
    from rich.console import Console

    known = sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdecimal()
    return Console(width=None if known else width, highlight=False)


def new_table(*columns: str, title: str | None = None) -> Table:
    """An empty table with narrow gaps. On a narrow terminal, cells wrap and are never truncated."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def show(tables: Iterable[Table], notes: Iterable[str] = (), *, width: int = 160) -> None:
    """Prints tables, and the notes below them verbatim. `width`: for a pipe."""
    out = console(width)
    for table in tables:
        if table.title:  # above it rather than within its width
            out.print(table.title, style="bold", markup=False)
            table.title = None
        out.print(table)
    for note in notes:
        out.print(note, markup=False)


def literal(text: str) -> str:
    """A cell that shows a text verbatim, brackets included."""
    from rich.markup import escape

    return escape(printable(text))


def metric_cell(score: Score | Spread) -> str:
    """The metric, its better direction, and its unit."""
    arrow = "↑" if score.higher_is_better else "↓"
    return f"{score.metric} {arrow}" + (f" ({score.unit})" if score.unit else "")


def constant_cell(score: Score) -> str:
    """The score and the name of the best constant."""
    from fourm_engine.evaluate.report import number

    constant = score.best_constant
    return f"{number(constant[1])} ({constant[0]})" if constant else ""

"""Tables on the console."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from fourm_engine.evaluate.results import Score, Spread


def console(width: int = 160) -> Console:
    """As wide as the terminal, or as the variable COLUMNS says; a pipe, which has no width, gets `width`."""
    from rich.console import Console

    known = sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdecimal()
    return Console(width=None if known else width, highlight=False)


def new_table(*columns: str, title: str | None = None) -> Table:
    """An empty table with narrow gaps. On a narrow terminal cells continue on the next line, and nothing is cut."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def show(tables: Iterable[Table], notes: Iterable[str] = (), *, width: int = 160) -> None:
    """Print tables, and below them the notes as they are. `width`: of a pipe."""
    out = console(width)
    for table in tables:
        if table.title:  # above it rather than within its width
            out.print(table.title, style="bold", markup=False)
            table.title = None
        out.print(table)
    for note in notes:
        out.print(note, markup=False)


def printable(text: str) -> str:
    """Without what a terminal obeys: others may have written the files that it comes from."""
    return "".join(c if c.isprintable() else "?" for c in text)


def literal(text: str) -> str:
    """A text as a cell that shows it as it is, brackets included."""
    from rich.markup import escape

    return escape(printable(text))


def metric_cell(score: Score | Spread) -> str:
    """The metric, which way is better, and its unit."""
    arrow = "↑" if score.higher_is_better else "↓"
    return f"{score.metric} {arrow}" + (f" ({score.unit})" if score.unit else "")


def constant_cell(score: Score) -> str:
    """The score of the best constant, and which it is."""
    from fourm_engine.evaluate.report import number

    constant = score.best_constant
    return f"{number(constant[1])} ({constant[0]})" if constant else ""

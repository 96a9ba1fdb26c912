"""Tables on the console. On a narrow terminal cells wrap at words; a table that is too wide even so is shown in parts,
each of whole columns."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

from fourm_plugins.counting import printable

if TYPE_CHECKING:
    from fourm_engine.evaluate.results import Score, Spread

#: Characters between two columns.
_GAP = 2
#: A word that is longer, such as a path, may be broken: in the columns that say what a row is about, and in others.
_LONGEST_KEY, _LONGEST = 40, 16
#: Where a long word is broken, if it has such a place.
_PIECE = re.compile(r"[^/.,_-]*[/.,_-]+|[^/.,_-]+")


class Table:
    """Rows of cells, shown verbatim but for characters that do not print."""

    def __init__(self, *columns: str, title: str | None = None) -> None:
        self.columns, self.title = tuple(map(printable, columns)), printable(title or "")
        self.rows: list[tuple[str, ...]] = []

    def add_row(self, *cells: str) -> None:
        self.rows.append(tuple(map(printable, cells)))

    def keys(self) -> int:
        """How many of the first columns say what a row is about; a blank cell there stands for that above it."""
        above, filled = ("",) * len(self.columns), list[tuple[str, ...]]()
        for row in self.rows:
            above = tuple(cell or before for cell, before in zip(row, above, strict=True))
            filled.append(above)
        counts = (k for k in range(1, len(self.columns)) if len({row[:k] for row in filled}) == len(filled))
        return next(counts, 1)


def show(tables: Iterable[Table], notes: Iterable[str] = (), *, width: int = 160) -> None:
    """Prints tables, and the notes below them verbatim. `width`: for a pipe, which has none; COLUMNS sets it, too."""
    from rich.console import Console

    width = shutil.get_terminal_size((width, 24)).columns
    out = Console(width=width, highlight=False, emoji=False)
    for table in tables:
        if table.title:
            out.print(table.title, style="bold", markup=False, soft_wrap=True)
        for part in _parts(table, width):
            heads, *rows = _lines(table, part)
            out.print("\n".join(heads), style="bold", markup=False, soft_wrap=True)
            print("─" * (sum(part.values()) + _GAP * (len(part) - 1)))
            for row in rows:
                print("\n".join(row))
            print()
    for note in notes:
        print(note)


def _parts(table: Table, width: int) -> Iterator[dict[int, int]]:
    """{column: its width} of each part in which the table is shown."""
    from rich.cells import cell_len

    columns = [(head, *cells) for head, *cells in zip(table.columns, *table.rows, strict=True)]
    widest = [max(map(cell_len, column)) for column in columns]
    first = table.keys()
    limits = [_LONGEST_KEY if k < first else _LONGEST for k in range(len(columns))]
    words = [max((cell_len(word) for cell in column for word in cell.split()), default=0) for column in columns]
    least = [min(word, limit) for word, limit in zip(words, limits, strict=True)]
    gaps = _GAP * (len(columns) - 1)
    if sum(least) + gaps <= width or len(columns) <= first + 1:
        yield dict(enumerate(_narrowed(widest, least, width - gaps)))
        return
    keys = _narrowed(widest[:first], least[:first], max(width // 2, sum(least[:first])))
    part = dict(enumerate(keys))
    for k in range(first, len(columns)):
        room = width - sum(part.values()) - _GAP * len(part)
        if widest[k] > room and len(part) > first:
            yield part
            part = dict(enumerate(keys))
            room = width - sum(keys) - _GAP * first
        part[k] = max(1, min(widest[k], room))
    yield part


def _narrowed(widths: Sequence[int], least: Sequence[int], room: int) -> list[int]:
    """Widths that together fit into `room`, if they can: the widest column gives way, down to its `least`."""
    widths = list(widths)
    while sum(widths) > max(room, sum(least)):
        k = max((k for k in range(len(widths)) if widths[k] > least[k]), key=widths.__getitem__)
        widths[k] -= 1
    return widths


def _lines(table: Table, part: dict[int, int]) -> Iterator[list[str]]:
    """The lines of the heads, and of each row."""
    from rich.cells import set_cell_size

    for row in (table.columns, *_rows(table, part)):
        cells = [_wrapped(row[k], width) for k, width in part.items()]
        lines = []
        for texts in zip_longest(*cells, fillvalue=""):
            sized = [set_cell_size(text, width) for text, width in zip(texts, part.values(), strict=True)]
            lines.append((" " * _GAP).join(sized).rstrip())
        yield lines


def _rows(table: Table, part: Iterable[int]) -> Iterator[tuple[str, ...]]:
    """The rows that a part shows: all with a cell in its columns besides the keys. Below a row that is left out, one
    names its keys in full."""
    first, left_out = table.keys(), False
    above = ("",) * len(table.columns)
    for row in table.rows:
        above = tuple(cell or before for cell, before in zip(row, above, strict=True))
        if all(k < first or not row[k] for k in part) and any(row[first:]):
            left_out = True
            continue
        yield above[:first] + row[first:] if left_out else row
        left_out = False


def _wrapped(text: str, width: int) -> list[str]:
    from rich.cells import cell_len, chop_cells

    if cell_len(text) <= width:
        return [text]
    lines = [""]
    for word in text.split():
        whole, between = cell_len(word) <= width, " "
        for piece in [word] if whole else _PIECE.findall(word):
            if cell_len(lines[-1] + between + piece) <= width and lines[-1]:
                lines[-1] += between + piece
            else:
                lines += chop_cells(piece, width)
            between = ""
    return lines[1:]


def metric_cell(score: Score | Spread) -> str:
    """The metric, its better direction, and its unit."""
    arrow = "↑" if score.higher_is_better else "↓"
    return f"{score.metric} {arrow}" + (f" ({score.unit})" if score.unit else "")


def constant_cell(score: Score) -> str:
    """The score and the name of the best constant."""
    from fourm_plugins.counting import number

    constant = score.best_constant
    return f"{number(constant[1])} ({constant[0]})" if constant else ""

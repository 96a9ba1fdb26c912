"""A sheet: rows and columns of pictures and texts, with a caption above each, as one picture."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fourm_engine.evaluate.pictures import fit, font

if TYPE_CHECKING:
    from PIL.Image import Image

#: Characters of a text that a cell shows.
MAX_TEXT = 1500


@dataclass(frozen=True)
class Cell:
    """A `PIL.Image` or a string, and what it is."""

    content: Any
    caption: str = ""


def sheet(
    rows: Sequence[tuple[str, Sequence[Cell | None]]], *, title: Sequence[str] = (), cell: int = 192, margin: int = 8
) -> Image:
    """rows: (label, cells); a row is as tall as its tallest cell. `title`: lines above."""
    from PIL import Image as pil
    from PIL import ImageDraw

    letters, small, line = font(13), font(11), 15
    label_width = 14 + max((round(letters.getlength(label)) for label, _ in rows), default=0)
    columns = max((len(cells) for _, cells in rows), default=0)
    width = max(
        label_width + columns * (cell + margin) + margin,
        *(round(letters.getlength(text)) + 3 * margin for text in title or [""]),
    )
    laid = [(label, [_lay(c, cell, small) for c in cells]) for label, cells in rows]
    heights = [max((_height(c, line) for c in cells), default=0) + margin for _, cells in laid]
    top = margin + (line + 4) * len(title)
    picture = pil.new("RGB", (width, top + sum(heights) + margin), "white")
    pen = ImageDraw.Draw(picture)
    for number, text in enumerate(title):
        pen.text((margin, margin + (line + 4) * number), text, fill=(20, 20, 20), font=letters)
    y = top
    for (label, cells), height in zip(laid, heights):
        pen.text((margin, y + line), label, fill=(20, 20, 20), font=letters)
        for column, laid_cell in enumerate(cells):
            if laid_cell is None:
                continue
            x, (content, caption) = label_width + column * (cell + margin), laid_cell
            for number, text in enumerate(caption):
                pen.text((x, y + line * number), text, fill=(110, 110, 110), font=small)
            below = y + line * len(caption) + 2
            if isinstance(content, list):
                pen.multiline_text((x, below), "\n".join(content), fill=(20, 20, 20), font=small, spacing=2)
            else:
                picture.paste(content, (x, below))
        y += height
    return picture


def _lay(cell: Cell | None, side: int, small: Any) -> tuple[Any, list[str]] | None:
    """(picture at its size or lines, lines of the caption)."""
    if cell is None or cell.content is None:
        return None
    characters = max(8, round(side / small.getlength("n" * 20) * 20))
    caption = textwrap.wrap(cell.caption, characters)
    if isinstance(cell.content, str):
        text = cell.content if len(cell.content) <= MAX_TEXT else cell.content[:MAX_TEXT] + "…"
        wrapped = [line for part in text.split("\n") for line in textwrap.wrap(part, characters) or [""]]
        return wrapped, caption
    return fit(cell.content, side), caption


def _height(laid: tuple[Any, list[str]] | None, line: int) -> int:
    if laid is None:
        return line * 2
    content, caption = laid
    return line * len(caption) + 2 + (line * len(content) + 4 if isinstance(content, list) else content.height)

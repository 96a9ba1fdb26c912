"""Drawing for people: a picture with its legend, and sheets of pictures and texts.

In: the results of `Modality.render`, a `PIL.Image` or a string, and of `Modality.legend`. Out: pictures.
"""

from __future__ import annotations

import base64
import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fourm_plugins import calls
from fourm_plugins.legend import Key, Legend, Scale
from fourm_plugins.modality import Modality

if TYPE_CHECKING:
    from PIL.Image import Image

#: Maximum number of characters of a text in a cell.
MAX_TEXT = 1500
#: Maximum number of entries of a key, and of characters of a name in it.
MAX_ENTRIES, MAX_NAME = 14, 24
#: Minimum size in pixels of a picture with a legend; smaller ones are enlarged.
SIDE = 256
_INK, _CAPTION, _PALE = (20, 20, 20), (60, 60, 60), (110, 110, 110)


def show(modality: Modality, value: Any, *, side: int = SIDE) -> Any:
    """`value` for display: a picture of at least `side` pixels, with its scale or key next to it, or a string."""
    rendered, legend = calls.render(modality, value), calls.legend(modality, value)
    if isinstance(rendered, str) or legend is not None or max(rendered.size) >= side:
        return explained(rendered, legend, side=side)
    from PIL import Image as pil

    # Pictures with a legend are enlarged with nearest-neighbour interpolation, since their colours carry meaning;
    # photographs smoothly.
    scale = side / max(rendered.size)
    size = round(rendered.width * scale) or 1, round(rendered.height * scale) or 1
    return rendered.convert("RGB").resize(size, pil.Resampling.BICUBIC)


def explained(rendered: Any, legend: Legend | None, *, side: int = SIDE) -> Any:
    """A rendered value with its legend; unchanged if it has none, or is a string."""
    if isinstance(rendered, str) or legend is None:
        return rendered
    from PIL import Image as pil

    picture = fit(rendered, side)
    beside = _scale(legend, picture.height) if isinstance(legend, Scale) else _key(legend)
    whole = pil.new("RGB", (picture.width + 10 + beside.width, max(picture.height, beside.height)), "white")
    whole.paste(picture, (0, 0))
    whole.paste(beside, (picture.width + 10, 0))
    return whole


def legend_of(modality: Modality, values: Sequence[Any], side: int) -> Image | None:
    """The legend for the pictures of `Modality.render_all`, as a picture of `side` pixels: a scale, or a key of all
    classes that occur; None for pictures that need none."""
    legends = [legend for value in values if (legend := calls.legend(modality, value)) is not None]
    if not legends:
        return None
    if isinstance(legends[0], Scale):
        drawn = _scale(legends[0], side)
    else:
        entries = dict.fromkeys(entry for legend in legends if isinstance(legend, Key) for entry in legend.entries)
        drawn = _key(Key(tuple(entries)))
    from PIL import Image as pil

    drawn = fit(drawn, side) if max(drawn.size) > side else drawn
    whole = pil.new("RGB", (side, side), "white")
    whole.paste(drawn, (0, 0))
    return whole


def _scale(scale: Scale, height: int) -> Image:
    """The bar with its unit above, and its marks on the right."""
    from PIL import Image as pil
    from PIL import ImageDraw

    letters, bar, line = font(12), 16, 16
    top = line + 4 if scale.unit else line // 2
    length = max(height - top - line // 2, 8 * line if scale.unit else 4 * line)
    labels = [(share, text, round(letters.getlength(text))) for share, text in scale.marks]
    width = max([bar + 10 + w for _, _, w in labels] + [round(letters.getlength(scale.unit))], default=bar) + 4
    picture = pil.new("RGB", (width, top + length + line // 2), "white")
    pen = ImageDraw.Draw(picture)
    pen.text((0, 0), scale.unit, fill=_INK, font=letters)
    rows = np.round(np.linspace(len(scale.colours) - 1, 0, length)).astype(int)
    strip = np.repeat(np.asarray(scale.colours, np.uint8)[rows][:, None], bar, 1)
    picture.paste(pil.fromarray(strip), (0, top))
    last = float("inf")
    for share, text, _ in sorted(labels):
        y = top + round((1 - share) * (length - 1))
        pen.line((bar, y, bar + 4, y), fill=_INK)
        if last - y >= line - 2:  # labels must not overlap
            pen.text((bar + 8, y), text, fill=_INK, font=letters, anchor="lm")
            last = y
    return picture


def _key(key: Key) -> Image:
    from PIL import Image as pil
    from PIL import ImageDraw

    letters, line, swatch = font(12), 18, 12
    lines = [(colour, name if len(name) <= MAX_NAME else name[: MAX_NAME - 1] + "…") for colour, name in key.entries]
    more = len(lines) - MAX_ENTRIES
    names = [name for _, name in lines[:MAX_ENTRIES]] + ([f"and {more} more"] if more > 0 else [])
    width = swatch + 10 + max((round(letters.getlength(name)) for name in names), default=0)
    picture = pil.new("RGB", (width, line * max(1, len(names))), "white")
    pen = ImageDraw.Draw(picture)
    for number, name in enumerate(names):
        y = number * line
        if number < MAX_ENTRIES:
            pen.rectangle((0, y + 3, swatch, y + 3 + swatch), fill=lines[number][0], outline=(90, 90, 90))
        pen.text(
            (swatch + 7, y + line // 2), name, fill=_INK if number < MAX_ENTRIES else _PALE, font=letters, anchor="lm"
        )
    return picture


def png(image: Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def data_uri(image: Image) -> str:
    return "data:image/png;base64," + base64.b64encode(png(image)).decode()


def html_picture(image: Image) -> str:
    """The picture as HTML, for notebooks."""
    return f"<img src='{data_uri(image)}'>"


def fit(image: Image, cell: int) -> Image:
    """`image` in a square of `cell` pixels; enlarged without smoothing, reduced with it."""
    from PIL import Image as pil

    scale = cell / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.convert("RGB").resize(size, pil.Resampling.NEAREST if scale >= 1 else pil.Resampling.LANCZOS)


def font(size: int) -> Any:
    """A scalable font: matplotlib's if it is installed, since Pillow's own lacks most non-Latin characters."""
    from PIL import ImageFont

    try:
        from matplotlib import font_manager
    except ImportError:
        return ImageFont.load_default(size)
    return ImageFont.truetype(font_manager.findfont("DejaVu Sans"), size)


@dataclass(frozen=True)
class Cell:
    """A `PIL.Image` or a string, and its caption."""

    content: Any
    caption: str = ""


def sheet(rows: Sequence[tuple[str, Sequence[Cell | None]]], *, title: Sequence[str] = (), cell: int = 192) -> Image:
    """rows: (label, cells); a row is as tall as its tallest cell. `title`: lines above."""
    from PIL import Image as pil
    from PIL import ImageDraw

    letters, small, line, margin = font(13), font(11), 15, 8
    label_width = 14 + max((round(letters.getlength(label)) for label, _ in rows), default=0)
    columns = max((len(cells) for _, cells in rows), default=0)
    width = max(
        label_width + columns * (cell + margin) + margin,
        *(round(letters.getlength(text)) + 3 * margin for text in title or [""]),
    )
    laid = [(label, [_lay(c, cell, small) for c in cells]) for label, cells in rows]
    captions = [line * max((len(c[1]) for c in cells if c is not None), default=0) + 2 for _, cells in laid]
    heights = [
        above + max((_height(c, line) for c in cells), default=0) + margin for above, (_, cells) in zip(captions, laid)
    ]
    top = margin + (line + 4) * len(title)
    picture = pil.new("RGB", (width, top + sum(heights) + margin), "white")
    pen = ImageDraw.Draw(picture)
    for number, text in enumerate(title):
        pen.text((margin, margin + (line + 4) * number), text, fill=_INK, font=letters)
    y = top
    for (label, cells), above, height in zip(laid, captions, heights):
        pen.text((margin, y + line), label, fill=_INK, font=letters)
        for column, laid_cell in enumerate(cells):
            if laid_cell is None:
                continue
            x, (content, caption) = label_width + column * (cell + margin), laid_cell
            for number, text in enumerate(caption):
                pen.text((x, y + line * number), text, fill=_CAPTION, font=small)
            below = y + above
            if isinstance(content, list):
                pen.multiline_text((x, below), "\n".join(content), fill=_INK, font=small, spacing=2)
            else:
                picture.paste(content, (x, below))
        y += height
    return picture


def _lay(cell: Cell | None, side: int, small: Any) -> tuple[Any, list[str]] | None:
    """(resized picture or lines of text, lines of the caption)."""
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
    """Height of the contents below the caption."""
    if laid is None:
        return line
    content, _ = laid
    return line * len(content) + 4 if isinstance(content, list) else content.height

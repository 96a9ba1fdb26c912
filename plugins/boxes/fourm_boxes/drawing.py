"""Boxes as a picture: an outline and a label in the label's colour, on a plain canvas."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from PIL import Image, ImageDraw

from fourm_boxes.box import Box
from fourm_plugins import images

_CANVAS = 256  # pixels


def draw_boxes(boxes: Sequence[Box]) -> Image.Image:
    """An RGB picture of 256 x 256 pixels; no label hides another while there is room."""
    canvas = Image.new("RGB", (_CANVAS, _CANVAS), (245, 245, 245))
    draw, colours, tabs = ImageDraw.Draw(canvas), images.palette(64), []
    for box in sorted(boxes, key=lambda box: -box.area):
        colour = tuple(int(c) for c in colours[zlib.crc32(box.label.encode(errors="surrogatepass")) % 64])
        corners = [round(x * (_CANVAS - 1)) for x in (box.x0, box.y0, box.x1, box.y1)]
        draw.rectangle(corners, outline=colour, width=2)
        tabs.append((corners, box.label, colour))
    placed: list[tuple[float, float, float, float]] = []
    for (left, top, _, bottom), label, colour in tabs:
        # The built-in font holds Latin letters; others are shown as "?".
        text = label.encode("latin-1", "replace").decode("latin-1")
        x0, y0, x1, y1 = draw.textbbox((0, 0), text)
        wide, high = x1 - x0 + 6, y1 - y0 + 5
        x = min(max(left, 0), max(_CANVAS - wide, 0))
        # Above the box, within it, below it, or else further down: where no other label stands.
        rows = [top - high, top + 2, bottom + 1, *range(top + 2, _CANVAS - high, 4)]
        free = (y for y in rows if 0 <= y <= _CANVAS - high and not _meets((x, y, x + wide, y + high), placed))
        y = next(free, min(max(top + 2, 0), _CANVAS - high))
        placed.append((x, y, x + wide, y + high))
        draw.rectangle(placed[-1], fill=colour)
        dark = 0.3 * colour[0] + 0.6 * colour[1] + 0.1 * colour[2] < 128
        draw.text((x + 3 - x0, y + 2 - y0), text, fill="white" if dark else "black")
    return canvas


def _meets(tab: Sequence[float], others: Sequence[Sequence[float]]) -> bool:
    """Whether a rectangle overlaps one of the others."""
    x0, y0, x1, y1 = tab
    return any(x0 < b[2] and b[0] < x1 and y0 < b[3] and b[1] < y1 for b in others)

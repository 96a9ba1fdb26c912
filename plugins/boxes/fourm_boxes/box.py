"""`Box`, and boxes as text: `v0=12 v1=250 v2=500 v3=999 person v0=...`, the form of the published models.

v0 to v3 are xmin, ymin, xmax, ymax as round(x * (bins - 1)). Lists are written in one of the orders of `Order`; any
text can be read, and what is not a box is counted.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

#: "distance": of (xmin, ymin) from the origin, the picture's upper left corner, as in the paper. "area": the largest
#: first. "score": the most certain first. "random": as they come, which a view has shuffled.
Order = Literal["distance", "area", "score", "random"]

_START = re.compile(r"v0\s*=")
_BOX = re.compile(r"v0\s*=\s*(\d{1,7})\s*v1\s*=\s*(\d{1,7})\s*v2\s*=\s*(\d{1,7})\s*v3\s*=\s*(\d{1,7})(?!\d)([^=]*)")


@dataclass(frozen=True)
class Box:
    """Corners in [0, 1] of the picture, x to the right, y down, x0 < x1, y0 < y1. `score`: a prediction's
    confidence."""

    label: str
    x0: float
    y0: float
    x1: float
    y1: float
    score: float | None = None

    @property
    def area(self) -> float:
        return (self.x1 - self.x0) * (self.y1 - self.y0)

    @property
    def certainty(self) -> float:
        """The score; 1 if there is none, as for hand-drawn boxes."""
        return 1.0 if self.score is None else self.score


class Boxed(list[Box]):
    """Boxes read from text, and how many pieces were `dropped` because they are not boxes."""

    def __init__(self, boxes: Iterable[Box] = (), *, dropped: int = 0) -> None:
        super().__init__(boxes)
        self.dropped = dropped


def ordered(boxes: Sequence[Box], order: Order) -> list[Box]:
    """`boxes` in an order that does not depend on the input's, except "random", which keeps it."""
    if order == "random":
        return list(boxes)

    def key(box: Box) -> tuple:
        first = {"distance": box.x0**2 + box.y0**2, "area": -box.area, "score": -box.certainty}[order]
        return (first, box.x0, box.y0, box.x1, box.y1, box.label)

    return sorted(boxes, key=key)


def write_boxes(boxes: Sequence[Box], *, bins: int = 1000, order: Order = "distance") -> str:
    """The text of `boxes`; a box narrower than a bin is written one bin wide."""
    parts = []
    for box in ordered(boxes, order):
        x0, x1 = _bins(box.x0, box.x1, bins)
        y0, y1 = _bins(box.y0, box.y1, bins)
        parts.append(f"v0={x0} v1={y0} v2={x1} v3={y1} {box.label}")
    return " ".join(parts)


def label_key(label: str) -> str:
    """The form in which labels are compared: a text tokenizer keeps neither capitals nor spaces around a hyphen."""
    return re.sub(r"[\W_]+", "", label.lower()) or label


def parse_boxes(
    text: str, *, bins: int = 1000, labels: Collection[str] = (), scores: Sequence[float] = ()
) -> tuple[list[Box], int]:
    """(boxes, number of dropped pieces) of any text, such as a model generates. A piece is dropped if it starts like a
    box but does not continue like one, has no extent, lies outside the picture, or has no label, or none of `labels` if
    these are given. Text before the first box counts as one dropped piece. `scores`: one a piece, text before the first
    box included; if there are more or fewer, they are not used."""
    known = {label_key(label): label for label in labels}
    starts = [match.start() for match in _START.finditer(text)]
    pieces = [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)])]
    dropped = int(bool(text[: starts[0] if starts else len(text)].strip()))
    rated = scores[dropped:] if len(scores) == dropped + len(pieces) else [None] * len(pieces)
    boxes = []
    for piece, score in zip(pieces, rated, strict=True):
        match = _BOX.fullmatch(piece)
        label = " ".join(match.group(5).split()) if match else ""
        if labels and label:
            label = known.get(label_key(label), "")
        x0, y0, x1, y1 = (int(x) / (bins - 1) for x in match.groups()[:4]) if match else (0, 0, 0, 0)
        if label and x0 < x1 <= 1 and y0 < y1 <= 1:
            boxes.append(Box(label, x0, y0, x1, y1, score=score))
        else:
            dropped += 1
    return boxes, dropped


def _bins(low: float, high: float, bins: int) -> tuple[int, int]:
    first, last = round(low * (bins - 1)), round(high * (bins - 1))
    if first == last:
        return (first, first + 1) if first < bins - 1 else (first - 1, first)
    return first, last

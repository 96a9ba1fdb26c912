"""One sample as a run sees it: a sheet of pictures, and a description in text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from fourm_engine.drawing import Cell, sheet
from fourm_engine.evaluate.masks import DROPPED
from fourm_plugins.counting import counted
from fourm_plugins.view import View

#: Pixels to enlarge a picture's longer side to, by a whole factor, before drawing a crop on it.
LEAST_SIDE = 256
RED = (255, 60, 60)

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class ShownModality:
    """One modality of a sample. Pictures are `PIL.Image`s or strings, or None if missing."""

    name: str
    #: Number of tokens; input and target budgets; numbers of tokens that the mask selected.
    tokens: int | None = None
    budgets: tuple[int, int] = (0, 0)
    taken: tuple[int, int] = (0, 0)
    #: (tokens,) of `masks.states`, for grids and vectors.
    states: np.ndarray | None = None
    #: As read, and the visible part of it; as the model sees it; as its tokens decode; under the mask.
    file: Any = None
    crop: View | None = None
    seen: Any = None
    decoded: Any = None
    masked: Any = None
    #: (input, target) of a sequence, or the positions of a vector's tokens.
    words: tuple[str, ...] = ()
    #: The reason for missing parts.
    remark: str = ""


@dataclass(frozen=True)
class ShownSample:
    """A sample, its modalities, and the draws for it. `position` is None if no mask was drawn."""

    sample: str
    part: str
    folder: str
    seed: int
    view: int
    views: int
    crops: dict[str, View]
    modalities: list[ShownModality]
    position: int | None = None
    epoch: int = 0
    component: str = ""
    totals: tuple[int, int] = (0, 0)
    notes: list[str] = field(default_factory=list)

    def title(self) -> list[str]:
        """Lines about the sample as a whole."""
        lines = [f"{self.sample} ({self.part}, {self.folder})"]
        views = "random views" if self.views > 1024 else counted(self.views, "view")
        crops = [f"{group}: {describe(view)}" for group, view in self.crops.items()]
        lines.append(f"view {self.view} of {views}" + "".join(f"; {crop}" for crop in crops))
        if self.position is not None:
            where = f"epoch {self.epoch}, position {self.position}, seed {self.seed}"
            tokens = f"{self.totals[0]} input tokens, {self.totals[1]} targets"
            lines.append(f"{where}; component {self.component!r}: {tokens}")
        return lines + self.notes

    def picture(self) -> Image:
        """The sheet, with a row per modality."""
        rows = []
        for shown in self.modalities:
            cells: list[Cell | None] = [None]
            if shown.file is not None:
                cells = [Cell(shown.file, "file")]
                if shown.crop is not None and not isinstance(shown.file, str) and not is_whole(shown.crop):
                    cells = [Cell(with_crop(shown.file, shown.crop), "file, and the crop")]
            cells.append(Cell(shown.seen, "as the model sees it"))
            cells.append(Cell(shown.decoded, "what its tokens decode to") if shown.decoded is not None else None)
            if shown.masked is not None:
                cells.append(Cell(shown.masked, mask_counts(shown, zeros=False)))
            elif shown.words:
                heads = ("input", "target") if len(shown.words) == 2 else ("tokens",)
                cells += [
                    Cell(text or "–", f"{head}: {count}" if len(shown.words) == 2 else mask_counts(shown))
                    for head, text, count in zip(heads, shown.words, shown.taken)
                ]
            elif shown.remark:
                cells.append(Cell(shown.remark, "mask"))
            rows.append((shown.name, cells))
        key = ["masks: inputs are clear, targets orange, what is dropped grey"] if self.position is not None else []
        return sheet(rows, title=self.title() + key)

    def lines(self) -> list[str]:
        """The same as text, one or more lines per modality."""
        lines = self.title()
        for shown in self.modalities:
            held = f" of {shown.tokens} tokens" if shown.tokens is not None else ""
            if self.position is None:
                lines.append(
                    f"{shown.name}: {shown.remark or (shown.seen if isinstance(shown.seen, str) else 'a picture')}"
                )
                continue
            lines.append(f"{shown.name}: {mask_counts(shown)}{held}; budgets {shown.budgets[0]} and {shown.budgets[1]}")
            if shown.remark:
                lines.append(f"  {shown.remark}")
            if len(shown.words) == 2:
                lines += [f"  {head}: {text or '–'}" for head, text in zip(("input", "target"), shown.words)]
            elif shown.words:
                lines.append(f"  {shown.words[0]}")
        return lines


def mask_counts(shown: ShownModality, *, zeros: bool = True) -> str:
    """The numbers of tokens that the mask selected and dropped, omitting zeros."""
    counts = {"input": shown.taken[0], "target": shown.taken[1]}
    if shown.states is not None:
        counts["dropped"] = int((shown.states == DROPPED).sum())
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count or zeros)


def describe(view: View) -> str:
    """A crop, described in text."""
    rows = f"rows {view.top:.0%} to {view.top + view.height:.0%}"
    columns = f"columns {view.left:.0%} to {view.left + view.width:.0%}"
    return f"{rows}, {columns}" + (", mirrored" if view.flip else "")


def is_whole(view: View) -> bool:
    """Whether a crop shows the whole, to a hundredth."""
    return min(view.height, view.width) > 0.99


def with_crop(image: Image, view: View) -> Image:
    """A picture with the rectangle of a view, red between white lines to show on any colour. Small pictures are
    enlarged first, so that the lines hide little."""
    from PIL import ImageDraw

    times = max(1, LEAST_SIDE // max(image.size))
    picture = image.convert("RGB").resize((image.width * times, image.height * times), 0)
    width = max(1, max(picture.size) // 150)
    left, top, right, bottom = (round(edge) for edge in view.pixels(picture.height, picture.width))
    box = (left, top, max(left, right - 1), max(top, bottom - 1))
    draw = ImageDraw.Draw(picture)
    draw.rectangle(box, outline="white", width=3 * width)
    if min(box[2] - box[0], box[3] - box[1]) > 2 * width:
        draw.rectangle((box[0] + width, box[1] + width, box[2] - width, box[3] - width), outline=RED, width=width)
    return picture

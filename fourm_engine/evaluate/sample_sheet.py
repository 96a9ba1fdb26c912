"""One sample as a run sees it: a sheet of pictures, and a description in words."""

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
    """One modality of a sample. Pictures are `PIL.Image`s or strings; None where there is none."""

    name: str
    #: Its number of tokens; its input and target budgets; and how many tokens the mask took.
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
    #: Why something is missing.
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
            lines.append(
                f"epoch {self.epoch}, position {self.position}, seed {self.seed}; component {self.component!r}: "
                f"{self.totals[0]} input tokens, {self.totals[1]} targets"
            )
        return lines + self.notes

    def picture(self) -> Image:
        """The sheet, with a row per modality."""
        rows = []
        for one in self.modalities:
            cells: list[Cell | None] = [None]
            if one.file is not None:
                cells = [Cell(one.file, "file")]
                if one.crop is not None and not isinstance(one.file, str) and not is_whole(one.crop):
                    cells = [Cell(with_crop(one.file, one.crop), "file, and the crop")]
            cells.append(Cell(one.seen, "as the model sees it"))
            cells.append(Cell(one.decoded, "what its tokens decode to") if one.decoded is not None else None)
            if one.masked is not None:
                cells.append(Cell(one.masked, taken(one, zeros=False)))
            elif one.words:
                heads = ("input", "target") if len(one.words) == 2 else ("tokens",)
                cells += [
                    Cell(text or "–", f"{head}: {count}" if len(one.words) == 2 else taken(one))
                    for head, text, count in zip(heads, one.words, one.taken)
                ]
            elif one.remark:
                cells.append(Cell(one.remark, "mask"))
            rows.append((one.name, cells))
        key = ["masks: inputs are clear, targets orange, what is dropped grey"] if self.position is not None else []
        return sheet(rows, title=self.title() + key)

    def lines(self) -> list[str]:
        """The same in words, one or more lines per modality."""
        lines = self.title()
        for one in self.modalities:
            held = f" of {one.tokens} tokens" if one.tokens is not None else ""
            if self.position is None:
                lines.append(f"{one.name}: {one.remark or (one.seen if isinstance(one.seen, str) else 'a picture')}")
                continue
            lines.append(f"{one.name}: {taken(one)}{held}; budgets {one.budgets[0]} and {one.budgets[1]}")
            if one.remark:
                lines.append(f"  {one.remark}")
            if len(one.words) == 2:
                lines += [f"  {head}: {text or '–'}" for head, text in zip(("input", "target"), one.words)]
            elif one.words:
                lines.append(f"  {one.words[0]}")
        return lines


def taken(one: ShownModality, *, zeros: bool = True) -> str:
    """How many tokens the mask took and dropped, omitting zeros."""
    counts = {"input": one.taken[0], "target": one.taken[1]}
    if one.states is not None:
        counts["dropped"] = int((one.states == DROPPED).sum())
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count or zeros)


def describe(view: View) -> str:
    """A crop in words."""
    crop = (
        f"rows {view.top:.0%} to {view.top + view.height:.0%}, columns {view.left:.0%} to {view.left + view.width:.0%}"
    )
    return crop + (", mirrored" if view.flip else "")


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

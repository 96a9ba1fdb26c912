"""One sample as a run sees it, for people: a sheet of pictures, and the same in words."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from fourm_engine.evaluate.masks import DROPPED
from fourm_engine.evaluate.sheet import Cell, sheet
from fourm_plugins.counting import counted
from fourm_plugins.view import View

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class ShownModality:
    """One modality of a sample. Pictures are `PIL.Image`s or strings; None where there is none."""

    name: str
    #: Tokens that it holds; those of its input and target budgets, and those that the mask took.
    tokens: int | None = None
    budgets: tuple[int, int] = (0, 0)
    taken: tuple[int, int] = (0, 0)
    #: (tokens,) of `masks.states`, of grids and vectors.
    states: np.ndarray | None = None
    #: As it was read, with the crop; as the model sees it; what its tokens decode to; under the mask.
    file: Any = None
    seen: Any = None
    decoded: Any = None
    masked: Any = None
    #: (input, target) of a sequence, or where the tokens of a vector are.
    words: tuple[str, ...] = ()
    #: Why something is absent.
    remark: str = ""


@dataclass(frozen=True)
class ShownSample:
    """A sample, its modalities, and what was drawn for it. `position` is None where no mask was drawn."""

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
        """Lines on the sample as a whole."""
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
        """The sheet: a row a modality."""
        rows = []
        for one in self.modalities:
            cells: list[Cell | None] = [None]
            if one.file is not None:
                cells = [Cell(one.file, "file" if isinstance(one.file, str) else "file, and the crop")]
            cells.append(Cell(one.seen, "as the model sees it"))
            cells.append(Cell(one.decoded, "what its tokens decode to") if one.decoded is not None else None)
            if one.masked is not None:
                cells.append(Cell(one.masked, taken(one)))
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
        """The same in words, a line or several a modality."""
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


def taken(one: ShownModality) -> str:
    dropped = ""
    if one.states is not None:
        dropped = f", {int((one.states == DROPPED).sum())} dropped"
    return f"{one.taken[0]} input, {one.taken[1]} target{dropped}"


def describe(view: View) -> str:
    """A crop in words."""
    crop = (
        f"rows {view.top:.0%} to {view.top + view.height:.0%}, columns {view.left:.0%} to {view.left + view.width:.0%}"
    )
    return crop + (", mirrored" if view.flip else "")


def with_crop(image: Any, view: View) -> Any:
    """A picture with the rectangle of a view."""
    if isinstance(image, str):
        return image
    from PIL import ImageDraw

    picture = image.convert("RGB")
    width = max(2, max(picture.size) // 100)
    left, top, right, bottom = view.pixels(picture.height, picture.width)
    box = (round(left), round(top), max(round(left), round(right) - 1), max(round(top), round(bottom) - 1))
    ImageDraw.Draw(picture).rectangle(box, outline=(255, 60, 60), width=width)
    return picture

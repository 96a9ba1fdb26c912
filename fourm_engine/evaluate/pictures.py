"""Contact sheets of rendered inputs, predictions, ground truths and ceilings.

In: renderings of `Modality.render`, each a `PIL.Image` or a string. Out: PNG bytes.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fourm_engine.drawing import fit, font

if TYPE_CHECKING:
    from PIL.Image import Image

#: Smaller pictures (pixels) are magnified, without smoothing.
SMALL = 160


@dataclass(frozen=True)
class Output:
    """One target of one sample, rendered as pictures or strings; `truth` is None without ground truth. `legend`: a
    picture that explains the colours of all three."""

    target: str
    prediction: Any
    truth: Any = None
    ceiling: Any = None
    legend: Any = None


@dataclass(frozen=True)
class SamplePictures:
    """One sample of a task: its inputs, {name: rendering}, and its targets."""

    sample: str
    inputs: dict[str, Any]
    outputs: list[Output]


def hide(image: Image, shown: np.ndarray) -> Image:
    """`image` with hidden tokens greyed out. shown: bool (rows, columns) of the token grid."""
    from PIL import Image as pil

    mask = pil.fromarray(np.where(shown, 255, 0).astype(np.uint8)).resize(image.size, pil.Resampling.NEAREST)
    return pil.composite(image.convert("RGB"), pil.new("RGB", image.size, (128, 128, 128)), mask)


def contact_sheet(samples: Sequence[SamplePictures], *, cell: int = 128, above: str = "prediction") -> Image:
    """A contact sheet of `samples`, with two rows each: predictions above truths, and inputs on the left. The columns
    are the first sample's inputs and targets. `above`: label of the upper row."""
    from PIL import Image as pil
    from PIL import ImageDraw

    if not samples:
        raise ValueError("a contact sheet needs a sample; ask for pictures (evaluate.pictures)")
    columns = [*samples[0].inputs, *(output.target for output in samples[0].outputs)]
    letters, left, header, margin = font(12), 12 + 7 * len(above), 22, 6
    wide = {
        name
        for sample in samples
        for name, shown in [*sample.inputs.items(), *((o.target, o.prediction) for o in sample.outputs)]
        if isinstance(shown, str)
    }
    widths = [cell + (cell // 2 if name in wide else 0) for name in columns]
    width = left + sum(widths) + margin * len(columns)
    sheet = pil.new("RGB", (width, header + len(samples) * (2 * cell + 3 * margin)), "white")
    pen = ImageDraw.Draw(sheet)

    def put(content: Any, x: int, y: int, width: int) -> None:
        if content is None:
            return
        if isinstance(content, str):
            text = textwrap.fill(content, max(8, width * 2 // 13))
            pen.multiline_text((x + 4, y + 4), text, fill=(30, 30, 30), font=letters, spacing=3)
        else:
            sheet.paste(fit(content, cell), (x, y))

    x = left
    for name, w in zip(columns, widths, strict=True):
        pen.text((x + 2, 4), name, fill=(30, 30, 30), font=letters)
        x += w + margin
    for row, sample in enumerate(samples):
        y = header + row * (2 * cell + 3 * margin)
        pen.text((6, y + cell // 2 - 8), above, fill=(30, 30, 30), font=letters)
        pen.text((6, y + cell + margin + cell // 2 - 8), "truth", fill=(30, 30, 30), font=letters)
        x = left
        outputs = {output.target: output for output in sample.outputs}
        for k, (name, w) in enumerate(zip(columns, widths, strict=True)):
            if k < len(sample.inputs):
                put(sample.inputs[name], x, y + (cell + margin) // 2, w)
            elif name in outputs:
                put(outputs[name].prediction, x, y, w)
                put(outputs[name].truth, x, y + cell + margin, w)
            x += w + margin
    return sheet


def stack_sheets(sheets: Sequence[tuple[str, Image]]) -> Image:
    """Stack sheets vertically, each under its title."""
    from PIL import Image as pil
    from PIL import ImageDraw

    letters, line, margin = font(13), 20, 6
    width = max(*(image.width for _, image in sheets), *(round(letters.getlength(t)) + 2 * margin for t, _ in sheets))
    whole = pil.new("RGB", (width, sum(image.height + line + margin for _, image in sheets)), "white")
    pen, y = ImageDraw.Draw(whole), 0
    for title, image in sheets:
        pen.text((margin, y + margin), title, fill=(20, 20, 20), font=letters)
        whole.paste(image, (0, y + line + margin))
        y += image.height + line + margin
    return whole

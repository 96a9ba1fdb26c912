"""Contact sheets of rendered inputs, predictions, ground truths and ceilings.

In: renderings of `Modality.render`, each a `PIL.Image` or a string. Out: PNG bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fourm_engine.drawing import Cell, sheet

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


def contact_rows(
    samples: Sequence[SamplePictures], *, above: str = "prediction"
) -> list[tuple[str, list[Cell | None]]]:
    """Two rows of a sheet for each sample: its inputs and predictions, and below the latter the truths. `above`: label
    of the upper row."""
    if not samples:
        raise ValueError("a contact sheet needs a sample; ask for pictures (evaluate.pictures)")
    rows: list[tuple[str, list[Cell | None]]] = []
    for sample in samples:
        inputs = [Cell(content, f"{name} (input)") for name, content in sample.inputs.items()]
        rows.append((above, [*inputs, *(Cell(output.prediction, output.target) for output in sample.outputs)]))
        rows.append(("truth", [*[None] * len(inputs), *(Cell(output.truth) for output in sample.outputs)]))
    return rows


def contact_sheet(samples: Sequence[SamplePictures], *, cell: int = 128, above: str = "prediction") -> Image:
    """The `contact_rows` of `samples` as one picture."""
    return sheet(contact_rows(samples, above=above), cell=cell)

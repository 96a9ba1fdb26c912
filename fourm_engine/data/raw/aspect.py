"""Width / height of pictures: whether two may show the same, and whether one is what a view was drawn for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fourm_plugins.errors import SampleError
from fourm_plugins.modality import Modality
from fourm_plugins.spec import ClassMap, FeatureMap, ModalitySpec
from fourm_plugins.view import View

#: Relative difference in width / height below which two pictures may be the same one at two resolutions.
ASPECT_TOLERANCE = 0.03


def same_aspect(first: float, second: float) -> bool:
    """Whether two pictures of these widths / heights may be one at two resolutions."""
    return abs(first - second) <= ASPECT_TOLERANCE * second


@dataclass
class Shape:
    """A width / height, the files that have it, and how many modalities read these."""

    aspect: float
    files: list[str]
    readers: int


class Vote:
    """Which width / height the files of a sample agree on, so that one that is turned is the odd one out. Ties go to
    what more modalities read, then to what was added first."""

    def __init__(self) -> None:
        self.shapes: list[Shape] = []

    def add(self, file: str, aspect: float, readers: int) -> None:
        """A file, read by so many modalities."""
        same = next((shape for shape in self.shapes if same_aspect(shape.aspect, aspect)), None)
        if same is None:
            self.shapes.append(same := Shape(aspect, [], 0))
        same.files.append(file)
        same.readers += readers

    def ranked(self) -> list[Shape]:
        """The one that is agreed on first."""
        return sorted(self.shapes, key=lambda shape: (-len(shape.files), -shape.readers))

    def decided(self, left: int) -> bool:
        """Whether `left` further files cannot change what is agreed on."""
        first, second = ([len(shape.files) for shape in self.ranked()] + [0, 0])[:2]
        return first > second + left


def array_aspect(spec: ModalitySpec) -> float | None:
    """Width / height of a modality's arrays; None where they have neither."""
    array = spec.array
    return array.width / array.height if isinstance(array, (FeatureMap, ClassMap)) else None


def check_aspect(modality: Modality, value: Any, view: View) -> None:
    """Raise SampleError where width / height of `value` is not that of the picture for which `view` was drawn, which
    follows from the view: its pixels have the aspect of the modality's array. A photograph that EXIF turns, beside a
    depth map that nothing turns, is such a pair."""
    aspect, target = modality.aspect(value), array_aspect(modality.spec)
    if aspect is None or target is None or modality.spec.alignment is None:
        return
    drawn_for = target * view.height / view.width
    if not same_aspect(aspect, drawn_for):
        raise SampleError(
            f"width / height is {aspect:.3f}, but {drawn_for:.3f} in the picture that it belongs to; store them alike "
            f"(turned by EXIF? cropped?)"
        )

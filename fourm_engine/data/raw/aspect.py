"""Aspect ratios (width / height): whether two pictures may show the same, and whether one fits a view."""

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
    """Whether pictures with these aspect ratios may be the same picture at two resolutions."""
    return abs(first - second) <= ASPECT_TOLERANCE * second


@dataclass
class Shape:
    """An aspect ratio, the files that have it, and the number of modalities that read them."""

    aspect: float
    files: list[str]
    readers: int


class Vote:
    """Finds the aspect ratio that most files of a sample share, to detect rotated ones. Ties go to the ratio of files
    that more modalities read, then to the first added."""

    def __init__(self) -> None:
        self.shapes: list[Shape] = []

    def add(self, file: str, aspect: float, readers: int) -> None:
        """Add a file that this many modalities read."""
        same = next((shape for shape in self.shapes if same_aspect(shape.aspect, aspect)), None)
        if same is None:
            self.shapes.append(same := Shape(aspect, [], 0))
        same.files.append(file)
        same.readers += readers

    def ranked(self) -> list[Shape]:
        """The ratios, the most frequent first."""
        return sorted(self.shapes, key=lambda shape: (-len(shape.files), -shape.readers))

    def decided(self, left: int) -> bool:
        """Whether `left` more files cannot change the result."""
        first, second = ([len(shape.files) for shape in self.ranked()] + [0, 0])[:2]
        return first > second + left


def array_aspect(spec: ModalitySpec) -> float | None:
    """Aspect ratio of a modality's arrays; None if they have none."""
    array = spec.array
    return array.width / array.height if isinstance(array, (FeatureMap, ClassMap)) else None


def check_aspect(modality: Modality, value: Any, view: View) -> None:
    """Raise SampleError if the aspect ratio of `value` differs from that of the picture for which `view` was drawn; the
    latter follows from the view, since its crop has the aspect of the modality's array. An example is a photograph
    rotated by EXIF next to a depth map that is not."""
    aspect, target = modality.aspect(value), array_aspect(modality.spec)
    if aspect is None or target is None or modality.spec.alignment is None:
        return
    drawn_for = target * view.height / view.width
    if not same_aspect(aspect, drawn_for):
        raise SampleError(
            f"width / height is {aspect:.3f}, but {drawn_for:.3f} in the picture that it belongs to; store them alike "
            f"(turned by EXIF? cropped?)"
        )

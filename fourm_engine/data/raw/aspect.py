"""Width / height of pictures: whether two may show the same, and whether one is what a view was drawn for."""

from __future__ import annotations

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

"""Colour palettes: one to seven colours of a picture.

Files: a JSON list [[r, g, b], ...] of 0 to 255. Value: the same as a tuple of tuples of int. Array: text,
`v1=n v0=r v0=g v0=b ...`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from PIL import Image
from pydantic import Field

from fourm_plugins import Metric, SampleError, View, images
from fourm_plugins.bases import SequenceModality, SequenceSettings

Palette = tuple[tuple[int, int, int], ...]
MOST = 7
_NUMBER = re.compile(r"v0\s*=\s*(\d{1,4})(?!\d)")
_WHOLE = re.compile(r"\s*v1\s*=\s*\d{1,4}(\s*v0\s*=\s*\d{1,4})+\s*")
_MAX_BYTES = 100_000


class PaletteSettings(SequenceSettings):
    small: ClassVar[Mapping[str, Any]] = SequenceSettings.small | {
        "text": {"vocabulary_size": 1400, "coordinate_bins": 256}
    }
    max_tokens: int = Field(default=23, ge=2, le=8192)


class ColorPalette(SequenceModality[Palette]):
    Settings = PaletteSettings
    published_settings: ClassVar = {"max_tokens": 23}
    published_name = "color_palette"
    extensions = ("json",)
    alignment = None
    uses_variant = False
    accepts = "colours, [[r, g, b], ...] of 0 to 255"
    licence = "Apache-2.0"
    description = "one to seven colours of a picture"

    def read(self, files: Mapping[str, bytes]) -> Palette:
        return self.from_object(images.only_json(files, self.extensions, "a palette", most=_MAX_BYTES))

    def from_object(self, given: Any) -> Palette:
        if not isinstance(given, (list, tuple)) or not given:
            raise self.refusal(given)
        try:
            colours = np.array(given)
            numbers = colours.dtype.kind in "uif"  # "255" is no level
            colours = colours.astype(np.float64) if numbers else colours
        except (ValueError, TypeError, OverflowError):
            numbers = False
        if not numbers:
            raise self.refusal(given)
        return self.from_array(colours)

    def from_array(self, array: np.ndarray) -> Palette:
        if array.ndim != 2 or array.shape[1] != 3 or not 1 <= len(array) <= MOST:
            raise SampleError(f"{array.shape} numbers are no palette; 1 to {MOST} colours of three are")
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 255):
            raise SampleError("a colour lies outside 0 to 255")
        return tuple((int(r), int(g), int(b)) for r, g, b in np.rint(array))

    def from_text(self, text: str) -> Palette:
        """JSON as in a file, or tokens as the model writes them."""
        if text.lstrip()[:1] == "[":
            return super().from_text(text)
        if not _WHOLE.fullmatch(text) or not (colours := self.denormalise(text)):
            raise SampleError(f"{text[:60]!r} is no palette; type `v1=n v0=r v0=g v0=b ...`, or [[r, g, b], ...]")
        return colours

    def write(self, value: Palette) -> dict[str, bytes]:
        return {"json": json.dumps(value).encode()}

    def augment(self, value: Palette, view: View) -> Palette:
        return value

    def normalise(self, value: Palette) -> str:
        return " ".join([f"v1={len(value)}", *(f"v0={level}" for colour in value for level in colour)])

    def denormalise(self, array: np.ndarray | str) -> Palette:
        """The whole colours of any text, clipped to 255."""
        assert isinstance(array, str)
        levels = [min(int(level), 255) for level in _NUMBER.findall(array)][: 3 * MOST]
        return tuple(zip(levels[::3], levels[1::3], levels[2::3], strict=False))

    def render(self, value: Palette) -> Image.Image:
        """Squares side by side."""
        colours = np.array(value or [(0, 0, 0)], np.uint8)[None]
        return Image.fromarray(colours.repeat(64, 0).repeat(64, 1))

    def metrics(self) -> tuple[Metric, ...]:
        return (Metric("distance to the nearest colour", _distance, False, "of 255"),)

    def example_samples(self, n: int, seed: int) -> list[dict[str, bytes]]:
        drawn = (np.random.default_rng([seed, index, 14]) for index in range(n))
        return [self.write(self.from_array(rng.integers(0, 256, (1 + i % 3, 3)))) for i, rng in enumerate(drawn)]


def _distance(predictions: Sequence[Palette], truths: Sequence[Palette]) -> float:
    """Mean absolute difference of each true colour and the nearest predicted one; 255 where there is none."""
    nearest = [
        np.abs(np.array(p, float)[:, None] - np.array(t, float)[None]).mean(-1).min(0).mean() if p else 255.0
        for p, t in zip(predictions, truths, strict=True)
    ]
    return float(np.mean(nearest))

"""View: the one crop and flip that every aligned modality of a sample shares.

Coordinates are relative to the source picture, so that one view applies to a photograph, its depth at another
resolution, and boxes in [0, 1].
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class View:
    """A rectangle of the source in [0, 1] (`top`, `left`, `height`, `width`), then a horizontal flip, if any.

    `variant` is a non-negative integer for modalities that choose among alternatives (one of five captions): view
    number v of a sample takes alternative v modulo their number, so that the choice is recorded with the crop."""

    top: float = 0.0
    left: float = 0.0
    height: float = 1.0
    width: float = 1.0
    flip: bool = False
    variant: int = 0

    def __post_init__(self) -> None:
        inside = self.top >= 0 and self.left >= 0 and self.top + self.height <= 1 + 1e-6
        if not (inside and self.left + self.width <= 1 + 1e-6 and self.height > 0 and self.width > 0):
            raise ValueError(f"view outside the picture: {self}")

    @classmethod
    def centre(cls, *, source_aspect: float, target_aspect: float = 1.0, variant: int = 0) -> View:
        """The largest centred crop of `target_aspect` (width / height), from a source of `source_aspect`."""
        height, width = _largest(source_aspect, target_aspect)
        return cls((1 - height) / 2, (1 - width) / 2, height, width, False, variant)

    @classmethod
    def random(
        cls,
        rng: np.random.Generator,
        *,
        source_aspect: float,
        target_aspect: float = 1.0,
        scale: tuple[float, float] = (0.5, 1.0),
        flip: float = 0.5,
        variant: int = 0,
    ) -> View:
        """A random crop of `target_aspect` whose area is drawn from `scale` (as a share of the largest such crop), at a
        uniformly random position, flipped with probability `flip`."""
        height, width = _largest(source_aspect, target_aspect)
        side = math.sqrt(rng.uniform(*scale))
        height, width = height * side, width * side
        top, left = rng.uniform(0, 1 - height), rng.uniform(0, 1 - width)
        return cls(top, left, height, width, bool(rng.random() < flip), variant)

    def pixels(self, height: int, width: int) -> tuple[float, float, float, float]:
        """(left, top, right, bottom) in pixels of a `height` x `width` source, fractional, for Pillow's resize."""
        left, top = self.left * width, self.top * height
        return left, top, min(width, left + self.width * width), min(height, top + self.height * height)

    def box(self, x0: float, y0: float, x1: float, y1: float) -> tuple[float, float, float, float]:
        """Transform a box in [0, 1] of the source to coordinates of the view, without clipping it."""
        x0, x1 = (x0 - self.left) / self.width, (x1 - self.left) / self.width
        y0, y1 = (y0 - self.top) / self.height, (y1 - self.top) / self.height
        return (1 - x1, y0, 1 - x0, y1) if self.flip else (x0, y0, x1, y1)

    def to_row(self) -> list[float]:
        """The six numbers as floats, for storage beside the tokens."""
        return [self.top, self.left, self.height, self.width, float(self.flip), float(self.variant)]

    @classmethod
    def from_row(cls, row: np.ndarray) -> View:
        """The view stored by `to_row`, as float32 or float64 (6,)."""
        top, left, height, width, flip, variant = (float(x) for x in row)
        # rounding to float32 may push an edge above 1; the constraint is on the sum
        return cls(top, left, min(height, 1 - top), min(width, 1 - left), flip > 0.5, int(variant))


def _largest(source_aspect: float, target_aspect: float) -> tuple[float, float]:
    """Relative (height, width) of the largest crop of `target_aspect` inside a source of `source_aspect`."""
    ratio = target_aspect / source_aspect
    return (1.0, ratio) if ratio <= 1 else (1 / ratio, 1.0)

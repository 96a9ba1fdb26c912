"""How a plugin recognises its files by their content: `Recognised`, and helpers to judge them.

From the files of some of a folder's samples, {extension without dot: content}: how surely they are a modality's, and
which settings fit them. `fourm init` asks every installed plugin about every folder. Does not import torch.
"""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np

from fourm_plugins.errors import SampleError

T = TypeVar("T")
File = TypeVar("File")
#: Files whose pixels are decoded; of further ones only the header is read.
LOOKED = 16
_CROP = 256  # pixels, of the middle of a picture


@dataclass(frozen=True)
class Recognised:
    """How well files look like a modality's."""

    #: In (0, 1]: about 0.9 if the content leaves little doubt, about 0.5 if it may as well be another's, 0.3 if only a
    #: folder named after the modality (`Modality.folders`) holds them; there any plugin that answers goes before all
    #: others. Below 0.3 the files are not read, and `what` tells the user why.
    score: float
    #: In users' words: "maps of 16 bits, 0.4 to 7.9 m".
    what: str
    #: Setting -> (value, why it fits these files), for what should not stay at its default.
    settings: Mapping[str, tuple[Any, str]] = field(default_factory=dict)
    #: Median (height, width) in pixels, if there are any.
    size: tuple[int, int] | None = None
    #: Number of distinct words in the texts examined; 0 if there are none, or the plugin does not count them.
    words: int = 0


@dataclass(frozen=True)
class Glimpse:
    """A picture's mode (as of PIL), its (height, width), and its middle as stored: (h, w) or (h, w, channels)."""

    mode: str
    size: tuple[int, int]
    middle: np.ndarray

    @property
    def flat(self) -> float:
        """Share of equal neighbouring pixels, across or down, whichever is less: near 1 for class maps, small for
        photographs and gradients."""
        across, down = self.middle[:, 1:] == self.middle[:, :-1], self.middle[1:] == self.middle[:-1]
        shares = ((same if same.ndim == 2 else same.all(-1)).mean() for same in (across, down) if same.size)
        return float(min(shares, default=1.0))


@lru_cache(maxsize=128)  # each plugin looks at the same files
def glimpse(content: bytes) -> Glimpse | None:
    """A picture's properties and its middle; None if it cannot be decoded."""
    from fourm_plugins.decoding import decode_picture

    try:
        picture = decode_picture(content)
    except SampleError:
        return None
    width, height = picture.size
    left, top = max(0, (width - _CROP) // 2), max(0, (height - _CROP) // 2)
    middle = np.asarray(picture.crop((left, top, min(width, left + _CROP), min(height, top + _CROP))))
    return Glimpse(picture.mode, (height, width), middle)


def picture_size(content: bytes) -> tuple[int, int] | None:
    """(height, width) from the header, as stored; None if it is not a picture."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content), formats=("PNG", "JPEG", "WEBP")) as picture:
                return picture.size[1], picture.size[0]
    except Exception:  # Pillow raises many kinds on other data
        return None


def contents(samples: Iterable[Mapping[str, bytes]], extensions: Sequence[str]) -> list[bytes]:
    """The content of each sample that has exactly one file with one of the extensions."""
    matching = ([files[e] for e in extensions if e in files] for files in samples)
    return [files[0] for files in matching if len(files) == 1]


def usable(files: Sequence[File], read: Callable[[File], T | None]) -> list[T]:
    """What `read` makes of the files, without those for which it returns None or raises `SampleError`; empty if less
    than four fifths remain, since the files are then another's."""
    values = []
    for file in files:
        with contextlib.suppress(SampleError):
            if (value := read(file)) is not None:
                values.append(value)
    return values if files and len(values) >= 0.8 * len(files) else []


def median_size(sizes: Iterable[tuple[int, int] | None]) -> tuple[int, int] | None:
    known = sorted((size for size in sizes if size is not None), key=lambda size: size[0] * size[1])
    return known[len(known) // 2] if known else None


def rounded(low: float, high: float) -> tuple[float, float]:
    """A range that contains [low, high], rounded outwards to two significant digits."""

    def outward(x: float, towards: Callable[[float], int]) -> float:
        if x == 0 or not math.isfinite(x):
            return 0.0
        digits = 1 - math.floor(math.log10(abs(x)))
        return float(f"{towards(x * 10.0**digits) / 10.0**digits:.2g}")

    return outward(low, math.floor), outward(high, math.ceil)


def next_power(number: float, *, least: int) -> int:
    """The smallest power of two that is at least `number` and at least `least`."""
    return max(least, 1 << max(0, math.ceil(number) - 1).bit_length())

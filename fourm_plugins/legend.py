"""Legends of a rendered picture: the scale of a quantity, or a key of classes.

Describes what `Modality.legend` returns for one value, as plain data that the engine draws beside the picture. No
torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import UInt8


@dataclass(frozen=True, eq=False)
class Scale:
    """A colour bar. `colours` are evenly spaced from its lower to its upper end; `marks` are (share of its length from
    the lower end, in [0, 1]; label); `unit` is written above."""

    colours: UInt8[np.ndarray, "n 3"]
    marks: tuple[tuple[float, str], ...]
    unit: str = ""


@dataclass(frozen=True)
class Key:
    """A colour and a name for each entry, the most important first."""

    entries: tuple[tuple[tuple[int, int, int], str], ...]


Legend = Scale | Key


def round_numbers(low: float, high: float, *, log: bool = False) -> list[float]:
    """At most six evenly spaced round numbers in [low, high]; or, for `log`, as many of 1, 2, 5, 10, … as fit. The ends
    themselves if there are fewer than two."""
    if log and low > 0:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for digits in ((1, 2, 5), (1, 3), (1,)):
            numbers = [float(f"{d}e{e}") for e in decades for d in digits if low <= float(f"{d}e{e}") <= high]
            if 2 <= len(numbers) <= 6:
                return numbers
            if len(numbers) < 2:
                break
    span = high - low
    if not (math.isfinite(span) and span > 0):
        return [low]
    step = 10.0 ** math.floor(math.log10(span / 6))
    step = next(step * k for k in (1, 2, 5, 10, 20) if span / (step * k) <= 5)
    numbers = [float(f"{k * step:.12g}") for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return numbers if len(numbers) > 1 else [low, high]

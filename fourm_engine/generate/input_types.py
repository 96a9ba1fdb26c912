"""Wrappers for inputs: `Ids` (token ids), `Typed` (literal text), `Condition` (a partial or weighted input)."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fourm_engine.generate.masks import weights_of
from fourm_plugins.inputs import as_array, describe, is_picture

#: Prefix that marks a value as `Typed`, on the command line and in input files.
TEXT = "text:"


class Ids:
    """Token ids of one modality, instead of its value: `Ids(out[name].tokens)`.

    `ids`: integers (n,), as a list, array or tensor, in [0, size of the modality's token space); a sequence comes
    without its end marker. Stored as int64. Raises ValueError for anything else; the range is checked on use."""

    def __init__(self, ids: Any) -> None:
        array = as_array(ids)
        array = np.asarray(ids) if array is None and isinstance(ids, (list, tuple, range)) else array
        if array is not None and not array.size and array.ndim == 1:
            array = array.astype(np.int64)  # an empty list has no type
        if array is None or array.ndim != 1 or array.dtype.kind not in "iu":
            given = describe(ids if array is None else array)
            raise ValueError(f"token ids are integers (n,); given: {given}")
        self.ids = array.astype(np.int64)

    def __repr__(self) -> str:
        return f"Ids({reprlib.repr(self.ids.tolist())})"


@dataclass(frozen=True)
class Typed:
    """Literal text, even if it looks like a path: `Typed("and/or.txt")`. For modalities whose values can be typed."""

    text: str


@dataclass(frozen=True, eq=False)
class Condition:
    """A partial input (a value or `Ids`), or one with a guidance weight (classifier-free guidance over several
    conditions: 4M section 3.2, arXiv 2207.12598).

    `keep`: bool, True where the value is known: (h, w) of the token grid, (n,) tokens, or (H, W) pixels of the value; a
    token is known if all its pixels are. If the modality is also a target, the known part stays and the rest is
    generated; otherwise only the known tokens are shown.

    `weight`: the finite number wᵢ in u + Σ wᵢ (cᵢ − u), for the whole, or for the tokens that a `region` touches: a box
    (x0, y0, x1, y1) in [0, 1] of the picture, a bool mask like `keep`, or a picture, white in the region. Tokens
    outside have no weight. For several regions, pass two lists of equal length:
    `Condition(value, weight=[2, -1], region=[box, mask])`.

    `halo`, for edits: the width in tokens of a border around the unknown part that is also regenerated, while known
    pixels stay. With it, the known part may be empty.

    Raises ValueError for a weight that is not a finite number, for a region without a weight, and if the numbers of
    weights and regions differ. Whether `keep` and `region` fit the value is checked on use."""

    value: Any
    keep: np.ndarray | None = None
    weight: float | Sequence[float] | None = None
    halo: int | None = None
    region: Any = None

    def __post_init__(self) -> None:
        weights_of(self.weight, self.region)

    def __repr__(self) -> str:
        parts = (f"{name}={_brief(part)}" for name, part in vars(self).items() if part is not None)
        return f"Condition({', '.join(parts)})"


def _brief(part: Any) -> str:
    """A short `repr`: pictures and arrays by size only."""
    return describe(part) if is_picture(part) or as_array(part) is not None else reprlib.repr(part)

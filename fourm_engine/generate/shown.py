"""What generation knows of one sample: what is shown, what is known, and which pixels of an edit stay as given."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fourm_engine.masking.pack import Shown
from fourm_plugins.spec import ClassMap, FeatureMap, Grid, ModalitySpec
from fourm_plugins.view import View


@dataclass(frozen=True, eq=False)
class Kept:
    """A value at its modality's size, and bool (H, W): where an edit leaves it as it is; None of a text to continue."""

    value: Any
    pixels: np.ndarray | None


def check_kept(name: str, tokens: np.ndarray, spec: ModalitySpec, *, edit: bool = False) -> None:
    """Raise ValueError, in the `name` that a user gave, where a mask, bool (n,), keeps all tokens or, unless it is of
    an `edit`, none."""
    if edit:
        if tokens.all():
            raise ValueError(
                f"{name!r}: the mask marks nothing of what the model sees, the picture's centre; mark more"
            )
        return
    if tokens.all():
        raise ValueError(f"{name!r}: keep leaves out no token of what the model sees; leave keep out")
    if not tokens.any():
        rows, columns = spec.patch
        raise ValueError(
            f"{name!r}: keep holds no whole token, {rows}x{columns} pixels of what the model sees; keep more, or "
            f"leave the input out"
        )


def without_halo(tokens: np.ndarray, spec: ModalitySpec, halo: int) -> np.ndarray:
    """bool (n,) of a grid: the known `tokens` that are more than `halo` rows or columns away from every other."""
    assert isinstance(spec.layout, Grid)
    known: np.ndarray = tokens.reshape(spec.layout.height, spec.layout.width)
    for axis, size in enumerate(known.shape):
        reach = min(halo, size)
        edges = [(reach, reach) if a == axis else (0, 0) for a in range(2)]
        padded = np.pad(known, edges, constant_values=True)
        known = np.all(np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1, axis), axis=-1)
    return known.reshape(-1)


def continued(given: str, beginning: str, generated: str) -> str:
    """`given` and what `generated` adds to `beginning`, which is `given` as its tokens hold it (in lower case, say)."""
    if not generated.startswith(beginning):
        return generated
    rest = generated[len(beginning) :]
    return given + (rest.lstrip() if given[-1:].isspace() else rest)


def kept_pixels(keep: np.ndarray, spec: ModalitySpec, view: View) -> np.ndarray:
    """bool (H, W) of the spec's array, from a mask of its tokens, or one of pixels that is seen through `view`: True
    where every pixel under the one of the array is known."""
    array, layout = spec.array, spec.layout
    assert isinstance(array, (FeatureMap, ClassMap))
    assert isinstance(layout, Grid)
    if keep.size == layout.num_tokens and keep.shape in ((layout.num_tokens,), (layout.height, layout.width)):
        rows, columns = spec.patch
        return keep.reshape(layout.height, layout.width).repeat(rows, 0).repeat(columns, 1)
    left, top, right, bottom = view.pixels(*keep.shape)
    first_row, last_row = _under(top, bottom, array.height)
    first_column, last_column = _under(left, right, array.width)
    # Sums over rectangles: how many of the pixels under each one are unknown.
    unknown = np.zeros((keep.shape[0] + 1, keep.shape[1] + 1), np.int64)
    unknown[1:, 1:] = (~keep).cumsum(0).cumsum(1)
    rows = unknown[last_row] - unknown[first_row]
    known = (rows[:, last_column] - rows[:, first_column]) == 0
    return known[:, ::-1] if view.flip else known


def _under(low: float, high: float, count: int) -> tuple[np.ndarray, np.ndarray]:
    """First and last (exclusive) source pixel that each of `count` pixels over [low, high) touches."""
    edges = np.round(np.linspace(low, high, count + 1), 6)  # 3.0000000004 touches no fourth pixel
    return np.floor(edges[:-1]).astype(np.int64), np.ceil(edges[1:]).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Region:
    """Tokens of one modality that have a guidance weight; `pos`, int64 (n,), names them."""

    name: str
    pos: np.ndarray
    weight: float


@dataclass
class Sample:
    """One sample on its way: what is given, and in turn what has been generated."""

    shown: dict[str, Shown] = field(default_factory=dict)
    #: Targets of which a part is given and stays as it is: tokens of a grid, or the beginning of a sequence.
    known: dict[str, Shown] = field(default_factory=dict)
    #: Values of those that are pictures and were given as such.
    kept: dict[str, Kept] = field(default_factory=dict)
    #: Guidance weights that the sample's own conditions carry.
    weights: dict[str, float] = field(default_factory=dict)
    #: What only a part of a condition weighs, by the name of the part.
    regions: dict[str, Region] = field(default_factory=dict)
    #: Through which the inputs are seen, by their alignment group.
    views: dict[str, View] = field(default_factory=dict)

    def without(self, hidden: AbstractSet[str]) -> dict[str, Shown]:
        """What is shown but for conditions and regions."""
        shown = {name: part for name, part in self.shown.items() if name not in hidden}
        for key in hidden & self.regions.keys():
            region = self.regions[key]
            if (part := shown.get(region.name)) is not None:
                shown[region.name] = part.at(~np.isin(part.pos, region.pos))
        return shown


@dataclass(frozen=True)
class SequenceIds:
    """Special ids of a sequence's token space: what closes it, what generation starts from, and what ends it."""

    end: int
    start: int
    stop: frozenset[int]

"""The state of one sample during generation: encoder inputs, known tokens, and the pixels that an edit keeps."""

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
    """A value at its modality's size, and bool (H, W), True where an edit keeps it (None for a text to continue)."""

    value: Any
    pixels: np.ndarray | None


def check_kept(name: str, tokens: np.ndarray, spec: ModalitySpec, *, edit: bool = False) -> None:
    """Raise ValueError, with the user's `name`, if the mask `tokens`, bool (n,), keeps all tokens, or none although it
    is not an `edit`."""
    if edit:
        if tokens.all():
            raise ValueError(
                f"{name!r}: the mask marks nothing of what the model sees, the picture's centre; mark more"
            )
        return
    if tokens.all():
        raise ValueError(f"{name!r}: keep covers all that the model sees; leave keep out")
    if not tokens.any():
        rows, columns = spec.patch
        raise ValueError(
            f"{name!r}: keep covers no whole token, {rows}x{columns} pixels as the model sees them; keep more, or "
            f"leave the input out"
        )


def without_halo(tokens: np.ndarray, spec: ModalitySpec, halo: int) -> np.ndarray:
    """bool (n,) over a grid: those of the known `tokens` that are more than `halo` rows or columns away from every
    unknown one."""
    assert isinstance(spec.layout, Grid)
    known: np.ndarray = tokens.reshape(spec.layout.height, spec.layout.width)
    for axis, size in enumerate(known.shape):
        reach = min(halo, size)
        edges = [(reach, reach) if a == axis else (0, 0) for a in range(2)]
        padded = np.pad(known, edges, constant_values=True)
        known = np.all(np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1, axis), axis=-1)
    return known.reshape(-1)


def continued(given: str, beginning: str, generated: str) -> str:
    """`given`, followed by what `generated` adds to `beginning`, the decoded tokens of `given`, which may differ from
    it (in case, for example)."""
    if not generated.startswith(beginning):
        return generated
    rest = generated[len(beginning) :]
    return given + (rest.lstrip() if given[-1:].isspace() else rest)


def kept_pixels(keep: np.ndarray, spec: ModalitySpec, view: View) -> np.ndarray:
    """bool (H, W) over the spec's array, True where every source pixel below is known, from a mask of tokens, or of
    pixels seen through `view`."""
    array, layout = spec.array, spec.layout
    assert isinstance(array, (FeatureMap, ClassMap))
    assert isinstance(layout, Grid)
    if keep.size == layout.num_tokens and keep.shape in ((layout.num_tokens,), (layout.height, layout.width)):
        rows, columns = spec.patch
        return keep.reshape(layout.height, layout.width).repeat(rows, 0).repeat(columns, 1)
    left, top, right, bottom = view.pixels(*keep.shape)
    first_row, last_row = _under(top, bottom, array.height)
    first_column, last_column = _under(left, right, array.width)
    # Summed-area table, to count the unknown source pixels under each pixel.
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
    """Tokens of one modality with a guidance weight; `pos`: their positions, int64 (n,)."""

    name: str
    pos: np.ndarray
    weight: float


@dataclass
class Sample:
    """One sample during generation: what was given and, stage by stage, what has been generated."""

    shown: dict[str, Shown] = field(default_factory=dict)
    #: The given part of targets, which stays: tokens of a grid, or the beginning of a sequence.
    known: dict[str, Shown] = field(default_factory=dict)
    #: The values of `known` that were given as pictures or text.
    kept: dict[str, Kept] = field(default_factory=dict)
    #: Guidance weights of whole conditions.
    weights: dict[str, float] = field(default_factory=dict)
    #: Guidance weights of regions of conditions, by the name of the region.
    regions: dict[str, Region] = field(default_factory=dict)
    #: The view of the inputs, by alignment group.
    views: dict[str, View] = field(default_factory=dict)

    def without(self, hidden: AbstractSet[str]) -> dict[str, Shown]:
        """The encoder inputs without the `hidden` conditions and regions."""
        shown = {name: part for name, part in self.shown.items() if name not in hidden}
        for key in hidden & self.regions.keys():
            region = self.regions[key]
            if (part := shown.get(region.name)) is not None:
                shown[region.name] = part.at(~np.isin(part.pos, region.pos))
        return shown


@dataclass(frozen=True)
class SequenceIds:
    """Special ids of a sequence's token space: its end marker, the id that generation starts from, and the ids that
    stop it."""

    end: int
    start: int
    stop: frozenset[int]

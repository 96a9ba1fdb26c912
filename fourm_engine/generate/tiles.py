"""Tiled generation for pictures larger than the model's input: maps of large photographs, super-resolution of any size.

In: a large picture, a target of the same alignment group. Out: one `Generated` for the whole, scaled by the ratio of
the target's array to the input's. When tokens are sampled, a tile is given its neighbours' tokens in the overlap, so
that tiles agree there. When one step computes them, tiles are independent: a neighbour's tokens would replace
probabilities, which is worse and leaves a visible edge. Overlapping values are blended.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fourm_engine.generate.input_types import Condition, Ids
from fourm_engine.generate.inputs import read_value
from fourm_engine.generate.keywords import DecodingOptions, SamplingOptions, shows_options
from fourm_engine.generate.options import Options
from fourm_engine.generate.plan import default_plan
from fourm_engine.generate.result import Generated
from fourm_engine.generate.vary import GeneratingModel
from fourm_plugins import calls
from fourm_plugins.modality import Modality
from fourm_plugins.spec import ClassMap, FeatureMap, Grid
from fourm_plugins.suggest import did_you_mean

if TYPE_CHECKING:
    from typing_extensions import Unpack

#: Maximum number of tiles of a picture.
MAX_TILES = 4096


@dataclass(frozen=True)
class Tiling:
    """Positions of tiles, in tokens of the target. Each has `size` (rows, columns) and its top left corner at one of
    `corners`, row by row. Tiles of the same wave do not overlap."""

    size: tuple[int, int]
    corners: list[tuple[int, int]]
    waves: list[list[int]]

    @classmethod
    def of(cls, whole: tuple[int, int], size: tuple[int, int], overlap: int) -> Tiling:
        """`whole`: rows and columns of tokens; neighbours share at least `overlap` of them."""
        starts = []
        for edge, tile in zip(whole, size, strict=True):
            count = 1 + -(-(edge - tile) // (tile - overlap))
            starts.append([math.floor(x + 0.5) for x in np.linspace(0, edge - tile, count)])
        corners = [(row, column) for row in starts[0] for column in starts[1]]
        waves: list[list[int]] = []
        level = list[int]()
        for i, (row, column) in enumerate(corners):
            near = (j for j in range(i) if abs(corners[j][0] - row) < size[0] and abs(corners[j][1] - column) < size[1])
            level.append(max((level[j] for j in near), default=-1) + 1)
            waves += [[]] if level[i] == len(waves) else []
            waves[level[i]].append(i)
        return cls(size, corners, waves)


@shows_options(DecodingOptions)
def generate_tiled(
    model: GeneratingModel,
    inputs: Mapping[str, Any],
    target: str,
    *,
    overlap: int = 2,
    seed: int = 0,
    **options: Unpack[DecodingOptions],
) -> Generated:
    """Generate `target` for a picture of any size, in tiles that overlap their neighbours by `overlap` tokens.

    Args:
        model: the `FourM`.
        inputs: one picture or map of the target's alignment group, and other inputs that all tiles share (a text).
        target: a picture or map that the model generates.
        overlap: in tokens of the target, from 0 to half of the shorter side of its grid.
        seed: when tokens are sampled, tile i, counted row by row, has the seed `seed` + i.

    Returns the target for the whole picture, at the picture's size, or scaled by the ratio of a tile's value to the
    tile (super-resolution).

    Raises ValueError, one line, for inputs or targets that cannot be tiled, before anything is generated."""
    if idle := [option for option in SamplingOptions.__annotations__ if option in options]:
        raise ValueError(f"{idle[0]} is for generate; tiles are parts of one result")
    made = _generated_map(model, target)
    name, modality, value = _picture(model, inputs, made)
    shape, height, width = modality.spec.array, *np.asarray(value).shape[:2]
    layout, array = made.spec.layout, made.spec.array
    assert isinstance(shape, (FeatureMap, ClassMap))
    assert isinstance(array, (FeatureMap, ClassMap))
    assert isinstance(layout, Grid)
    scale, size = (array.height / shape.height, array.width / shape.width), (layout.height, layout.width)
    down, right = _pixels_per_token(name, made, shape)
    if not 0 <= overlap <= min(size) // 2:
        raise ValueError(f"overlap {overlap}: expected 0 to {min(size) // 2}, half of the grid of {target!r}")
    if height < shape.height or width < shape.width:
        raise ValueError(
            f"{name!r} has {height} x {width} pixels, less than one tile of {shape.height} x {shape.width}; generate "
            "it without tiles"
        )
    whole = -(-height // down), -(-width // right)
    edges = [(0, whole[0] * down - height), (0, whole[1] * right - width)]
    padded = np.pad(value, [*edges, *[(0, 0)] * (np.ndim(value) - 2)], mode="edge")
    tiling = Tiling.of(whole, size, overlap)
    if (count := len(tiling.corners)) > MAX_TILES:
        raise ValueError(f"{name!r} needs {count} tiles, at most {MAX_TILES} are made; give a smaller one")
    decoding: dict[str, Any] = {k: v for k, v in options.items() if k in Options.model_fields}
    plain = default_plan(target, model.modalities, [modality.name], **decoding)
    drawn = "plan" in options or not plain[0].deterministic
    apart = not drawn and plain[0].steps == 1
    tokens, canvas = np.full(whole, -1, np.int64), _Canvas(made, whole)
    others = {other: given for other, given in inputs.items() if other != name}  # `name` may be the target's, too

    def request(row: int, column: int) -> dict[str, Any]:
        """The inputs of a tile: its crop, and those of its tokens that other tiles have generated."""
        given = {**others, modality.name: padded[row * down :, column * right :][: shape.height, : shape.width]}
        known = tokens[row : row + size[0], column : column + size[1]].reshape(-1)
        if (known >= 0).any():
            given[target] = Condition(Ids(np.maximum(known, 0)), keep=known >= 0)
        return given

    for wave in [range(count)] if apart else tiling.waves:
        corners = [tiling.corners[i] for i in wave]
        requests = [request(*corner) for corner in corners]
        # Equal tiles with different seeds would count as several samples of one input, and so be sampled.
        seeds = [seed + i if drawn else seed for i in wave]
        results = model.generate_batch(requests, target, seeds=seeds, **options)
        for (row, column), result in zip(corners, results, strict=True):
            tokens[row : row + size[0], column : column + size[1]] = result[target].tokens.reshape(size)
            canvas.add(row, column, result[target].value)
    cut = canvas.value()[: round(height * scale[0]), : round(width * scale[1])]
    return Generated(made, tokens.reshape(-1), cut)


def _generated_map(model: GeneratingModel, target: str) -> Modality:
    """The modality of the target. Raises ValueError unless it is a picture or map."""
    made = model.modalities.get(target)
    if made is not None and isinstance(made.spec.layout, Grid) and isinstance(made.spec.array, (FeatureMap, ClassMap)):
        return made
    specs = {name: modality.spec for name, modality in model.modalities.items()}
    grids = [n for n, s in specs.items() if s.target and isinstance(s.array, (FeatureMap, ClassMap))]
    hint = did_you_mean(target, grids, otherwise="the model has")
    raise ValueError(f"{target!r} is no picture or map that the model generates, and tiles are of these; {hint}")


def _pixels_per_token(name: str, made: Modality, shape: FeatureMap | ClassMap) -> tuple[int, int]:
    """Rows and columns of the picture `name` per token of the target. Raises ValueError unless they are integers."""
    (rows, columns), array = made.spec.patch, made.spec.array
    assert isinstance(array, (FeatureMap, ClassMap))
    pixels = rows * shape.height / array.height, columns * shape.width / array.width
    if any(number < 1 or number != int(number) for number in pixels):
        raise ValueError(
            f"a token of {made.name!r} is of {pixels[0]:g} x {pixels[1]:g} pixels of {name!r}; whole ones can be tiled"
        )
    return int(pixels[0]), int(pixels[1])


def _picture(model: GeneratingModel, inputs: Mapping[str, Any], made: Modality) -> tuple[str, Modality, Any]:
    """The input to tile: its name, its modality, and its value."""
    pictures = []
    for name, given in inputs.items():
        modality = model.reader.instance(name, raw=True)
        if isinstance(modality.spec.layout, Grid) and modality.spec.alignment == made.spec.alignment is not None:
            if isinstance(given, (Ids, Condition)):
                raise ValueError(f"{name!r}: tiles are of a whole picture; give its value")
            pictures.append((name, modality, read_value(name, modality, given)))
    if len(pictures) != 1:
        raise ValueError(f"tiles are of one picture or map of the alignment of {made.name!r}; given: {len(pictures)}")
    return pictures[0]


class _Canvas:
    """Combines tiles: values are blended with linear ramps over the overlaps; classes come from the nearest tile."""

    def __init__(self, modality: Modality, whole: tuple[int, int]) -> None:
        self._modality, self._patch = modality, modality.spec.patch
        self._shape = whole[0] * self._patch[0], whole[1] * self._patch[1]
        self._sum: np.ndarray | None = None
        self._weight = np.zeros(self._shape, np.float32)

    def add(self, row: int, column: int, value: Any) -> None:
        array = np.asarray(self._modality.normalise(value))
        h, w = array.shape[-2:]
        if self._sum is None:
            classes = isinstance(self._modality.spec.array, ClassMap)
            self._sum = np.zeros((*array.shape[:-2], *self._shape), array.dtype if classes else np.float32)
        top, left = row * self._patch[0], column * self._patch[1]
        here = np.s_[..., top : top + h, left : left + w]
        ramp = np.minimum.outer(_ramp(h), _ramp(w)).astype(np.float32)
        if isinstance(self._modality.spec.array, ClassMap):
            nearer = ramp > self._weight[here]
            self._sum[here] = np.where(nearer, array, self._sum[here])
            self._weight[here] = np.maximum(ramp, self._weight[here])
        else:
            self._sum[here] += array * ramp
            self._weight[here] += ramp

    def value(self) -> Any:
        assert self._sum is not None
        if isinstance(self._modality.spec.array, ClassMap):
            return calls.denormalise(self._modality, self._sum)
        return calls.denormalise(self._modality, (self._sum / self._weight).astype(np.float32))


def _ramp(length: int) -> np.ndarray:
    """Rises from the edges to the middle."""
    return np.minimum(np.arange(length) + 0.5, length - 0.5 - np.arange(length))

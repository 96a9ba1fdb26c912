"""Converts a user's masks and boxes to masks of tokens.

In: a bool array, a picture or its file, or a box in fractions of the picture. Out: bool (n,) over the tokens of a grid,
as the model sees it. Errors are one line with the user's names.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from fourm_plugins.decoding import decode_picture, upright
from fourm_plugins.errors import SampleError
from fourm_plugins.inputs import as_array, describe, is_picture, read_file
from fourm_plugins.spec import Grid, ModalitySpec
from fourm_plugins.view import View


def read_mask(given: Any, *, what: str = "mask", where: str = "the edit is") -> np.ndarray:
    """bool (H, W), True where the mask is set: from an array of two values, or a picture (or its file) that is light
    there. `what` and `where` name the mask and its meaning in errors.

    Raises ValueError for anything else, and for an empty mask."""
    picture, named = given, what
    if isinstance(given, (str, os.PathLike)):
        named = f"{what} {os.fspath(given)!r}"
        about = what  # errors of `read_file` name the file
        try:
            content = next(iter(read_file(Path(given), ("png", "jpg", "jpeg", "webp")).values()))
            about = named
            picture = decode_picture(content)
        except SampleError as error:
            raise ValueError(f"{about}: {error}") from error
    if is_picture(picture):
        mask = _light(picture, named, where)
    else:
        array = as_array(given)
        if array is None or array.ndim != 2 or array.dtype.kind not in "bui" or not _two_valued(array):
            raise ValueError(
                f"{what}: a bool array (H, W), True where {where}, or a picture, white there; given: "
                f"{describe(given if array is None else array)}"
            )
        mask = array != 0
    if not mask.any():
        raise ValueError(f"{named} marks nothing; make the part to mark white (True)")
    return mask


def _light(picture: Any, named: str, where: str) -> np.ndarray:
    """bool (H, W), True where a black and white picture is light. Raises ValueError for one of other colours, such as
    the photograph itself, if these are more than half of its pixels: soft edges are allowed."""
    upright_picture = upright(picture)
    light = np.asarray(upright_picture.convert("L"))
    other = (light > 64) & (light < 192)
    if upright_picture.mode not in ("1", "L", "LA", "I", "I;16", "I;16B", "F"):  # not all convert to RGB
        other |= np.ptp(np.asarray(upright_picture.convert("RGB")).astype(np.int16), axis=-1) > 64
    if other.mean() > 0.5:
        raise ValueError(
            f"{named} is mostly grey or coloured, as a photograph is; a mask is black, and white where {where}"
        )
    return light >= 128


def _two_valued(array: np.ndarray) -> bool:
    """Whether the array holds only 0 and one value above it: True, 1 or 255."""
    return array.dtype == np.bool_ or bool(array.size == 0 or np.isin(array, (0, max(1, array.max()))).all())


def is_box(given: Any) -> bool:
    """Whether `given` is four numbers."""
    return isinstance(given, (list, tuple)) and len(given) == 4 and all(isinstance(x, Real) for x in given)


def region_tokens(name: str, region: Any, value: Any, spec: ModalitySpec, view: View) -> np.ndarray:
    """bool (n,): the tokens of the grid that a region touches: a box (x0, y0, x1, y1) in [0, 1] of the given picture, y
    down, or anything that `read_mask` takes. `value`: the picture, or None for ids. Raises ValueError."""
    if not isinstance(spec.layout, Grid):
        raise ValueError(f"{name!r} is a {spec.layout.kind}; only grids have regions. Leave region out")
    what = f"{name!r}: region"
    if is_box(region):
        x0, y0, x1, y1 = map(float, region)
        if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
            raise ValueError(f"{what} {list(region)}: a box is (x0, y0, x1, y1) in [0, 1] of the picture, x0 < x1")
        height, width = (spec.layout.height, spec.layout.width) if value is None else np.asarray(value).shape[:2]
        mask = np.zeros((height, width), np.bool_)
        # Tolerates a thousandth of a pixel, so that a third of 9 pixels is 3.
        top, bottom = math.floor(y0 * height + 1e-3), math.ceil(y1 * height - 1e-3)
        left, right = math.floor(x0 * width + 1e-3), math.ceil(x1 * width - 1e-3)
        mask[top : max(bottom, top + 1), left : max(right, left + 1)] = True
    else:
        mask = read_mask(region, what=what, where="it is")
    return ~tokens_within(name, ~mask, value, spec, view, what="region")


def tokens_within(
    name: str, keep: np.ndarray, value: Any, spec: ModalitySpec, view: View, *, what: str = "keep"
) -> np.ndarray:
    """bool (n,): the tokens that lie entirely within `keep`, a mask of tokens or of pixels of `value`. Raises
    ValueError for a mask of another size."""
    assert isinstance(spec.layout, Grid)
    h, w = spec.layout.height, spec.layout.width
    if keep.dtype != np.bool_:
        raise ValueError(f"{name!r}: {what} must be bool, True where the value is known, not {keep.dtype}")
    if keep.shape in ((h, w), (h * w,)):
        return keep.reshape(-1)
    pixels = None if value is None else np.asarray(value).shape[:2]
    if keep.shape != pixels:
        size = f"the tokens have {(h, w)}" + (f", the picture {pixels}" if pixels else "")
        raise ValueError(f"{name!r}: {what} has shape {keep.shape}; {size}; resize it to {pixels or (h, w)}")
    left, top, right, bottom = view.pixels(*keep.shape)
    unknown = ~keep[:, ::-1] if view.flip else ~keep
    rows, columns = np.linspace(top, bottom, h + 1), np.linspace(left, right, w + 1)
    kept = np.empty((h, w), np.bool_)
    for i in range(h):
        for j in range(w):
            # every pixel that the token's patch touches
            y, x = slice(int(rows[i]), int(np.ceil(rows[i + 1]))), slice(int(columns[j]), int(np.ceil(columns[j + 1])))
            kept[i, j] = not unknown[y, x].any()
    return kept.reshape(-1)


def weights_of(weight: Any, region: Any) -> list[tuple[float, Any]]:
    """(weight, region) for each region of a `Condition`; a region of None means the whole. [] without a weight.

    Raises ValueError for weights that are not numbers, and if the numbers of weights and regions differ."""
    if region is None:
        pairs = [] if weight is None else [(weight, None)]
    elif isinstance(region, (list, tuple)) and not is_box(region):
        if not (isinstance(weight, Sequence) and len(weight) == len(region)):
            raise ValueError(f"a Condition of {len(region)} regions needs as many weights; given: {weight!r:.80}")
        pairs = list(zip(weight, region, strict=True))
    elif weight is None:
        raise ValueError("the region of a Condition has no effect without a weight; give weight=, or leave region out")
    else:
        pairs = [(weight, region)]
    for number, _ in pairs:
        if not (isinstance(number, Real) and math.isfinite(number)):
            raise ValueError(f"the weight of a Condition is a finite number; given: {number!r:.80}")
    return [(float(number), part) for number, part in pairs]

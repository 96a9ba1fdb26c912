"""Moves and scales regions of a map, and fills the holes. Positions are in pixels, (y, x) from the top left."""

from __future__ import annotations

import numpy as np


def moved_region(region: np.ndarray, middle: tuple[float, float], by: tuple[float, float], size: float) -> np.ndarray:
    """Move a region, bool (H, W), `by` a number of pixels and scale it by `size` about its `middle`; parts outside the
    map are cut off."""
    height, width = region.shape
    rows, columns = _source(height, middle[0], by[0], size), _source(width, middle[1], by[1], size)
    inside = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))[None]
    seen = region[np.clip(rows, 0, height - 1)[:, None], np.clip(columns, 0, width - 1)[None]]
    moved: np.ndarray = seen & inside
    return moved


def _source(length: int, middle: float, by: float, size: float) -> np.ndarray:
    """int64 (length,): the source position along one axis of the pixel at each position."""
    return np.asarray(np.floor((np.arange(length) + 0.5 - middle - by) / size + middle), np.int64)


def filled(value: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Fill a `hole`, bool (H, W), of a map (H, W) with the nearest values around it; it must not cover all."""
    value, hole = np.array(value), np.array(hole)
    while hole.any():
        before, known = value.copy(), ~hole
        for axis, step in ((0, 1), (0, -1), (1, 1), (1, -1)):
            known_beside, beside = np.roll(known, step, axis), np.roll(before, step, axis)
            edge = [slice(None), slice(None)]
            edge[axis] = slice(0, 1) if step == 1 else slice(-1, None)
            known_beside[tuple(edge)] = False
            take = hole & known_beside
            value[take] = beside[take]
            hole &= ~take
    return value

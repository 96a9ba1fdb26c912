"""Regions of a map: moved, scaled, and filled where they were. Positions are in pixels, (y, x) from the top left."""

from __future__ import annotations

import numpy as np


def moved_region(region: np.ndarray, middle: tuple[float, float], by: tuple[float, float], size: float) -> np.ndarray:
    """A region, bool (H, W), moved `by` so many pixels and made `size` times as large about its `middle`; what leaves
    the map is cut off."""
    height, width = region.shape
    rows, columns = _source(height, middle[0], by[0], size), _source(width, middle[1], by[1], size)
    inside = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))[None]
    seen = region[np.clip(rows, 0, height - 1)[:, None], np.clip(columns, 0, width - 1)[None]]
    moved: np.ndarray = seen & inside
    return moved


def _source(length: int, middle: float, by: float, size: float) -> np.ndarray:
    """int64 (length,): where along one side the pixel that is seen at each position was before."""
    return np.asarray(np.floor((np.arange(length) + 0.5 - middle - by) / size + middle), np.int64)


def filled(value: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """A map (H, W) with the nearest of what lies around it in a `hole`, bool (H, W), which does not cover all."""
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

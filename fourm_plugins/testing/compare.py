"""Distances between arrays of one spec, of any kind (`ModalitySpec.array`)."""

from __future__ import annotations

import difflib
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np


def same(a: Any, b: Any) -> bool:
    """Identical arrays; NaN equals NaN."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.shape == b.shape and a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    return type(a) is type(b) and bool(a == b)


def distance(a: Any, b: Any) -> float:
    """The distance of two arrays of one spec: the mean absolute difference of features where both are known, the share
    of differing classes, the share of characters to change in a text."""
    if isinstance(a, str):
        plain_a, plain_b = " ".join(a.lower().split()), " ".join(b.lower().split())
        return 1 - difflib.SequenceMatcher(None, plain_a, plain_b, autojunk=False).ratio()
    if a.dtype.kind == "i":
        known = (a >= 0) & (b >= 0)
        return float(np.mean(a[known] != b[known])) if known.any() else 0.0
    known = np.isfinite(a) & np.isfinite(b)
    return float(np.mean(np.abs(a[known] - b[known]))) if known.any() else 0.0


def constant(arrays: Sequence[Any]) -> Any:
    """The best constant array: each channel's median, the most frequent class, no text."""
    first = arrays[0]
    if isinstance(first, str):
        return ""
    stacked = np.stack(arrays)
    if stacked.dtype.kind == "i":
        return np.full_like(first, np.bincount(stacked[stacked >= 0]).argmax())
    axes = (0, *range(2, stacked.ndim)) if stacked.ndim > 2 else (0,)
    median = np.nan_to_num(np.nanmedian(stacked, axis=axes))
    return np.broadcast_to(median.reshape(-1, *([1] * (first.ndim - 1))), first.shape).astype(np.float32)


def spread(arrays: Sequence[Any]) -> float:
    """Mean distance of arrays from their best constant."""
    best = constant(arrays)
    return float(np.mean([distance(array, best) for array in arrays]))


@contextmanager
def global_seed(seed: int) -> Iterator[None]:
    """Seed Python's and NumPy's global generators, and restore them afterwards."""
    before = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])

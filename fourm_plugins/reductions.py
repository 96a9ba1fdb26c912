"""Reduces several values of one thing to their mean, median or majority, and measures their spread.

In: at least one value, all of one modality: arrays of one shape, mappings of numbers, or anything that can be compared.
Out: a value, or the spread at each position. The spread of two values is half their difference in its unit (for classes
and texts, half of whether they differ), so that twice the spread of a prediction and the truth is the error.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

How = Literal["mean", "median", "vote"]


def average(values: Sequence[Any], how: How) -> Any:
    """The mean or median: elementwise for arrays, ignoring NaN; per entry for mappings. Integers are rounded. Numbers
    on which all values agree are unchanged."""
    if isinstance(values[0], Mapping):
        return {name: float(average([np.asarray(v[name], np.float64) for v in values], how)) for name in values[0]}
    stacked = np.stack(values)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of NaN only
        x = (np.nanmean if how == "mean" else np.nanmedian)(stacked.astype(np.float64), axis=0)
    return np.asarray(np.rint(x) if stacked.dtype.kind in "ui" else x).astype(stacked.dtype)


def vote(values: Sequence[Any]) -> tuple[Any, Any]:
    """The most common value, elementwise for arrays of one shape, else as a whole, the first one on a tie; and the
    share of the values equal to it."""
    if not (isinstance(values[0], np.ndarray) and all(np.shape(v) == values[0].shape for v in values)):
        counts = [sum(bool(np.array_equal(v, other)) for other in values) for v in values]
        most = int(np.argmax(counts))
        return values[most], counts[most] / len(values)
    stacked = np.stack(values)
    votes = np.stack([(stacked == value).sum(0) for value in stacked])
    return np.take_along_axis(stacked, votes.argmax(0)[None], 0)[0], votes.max(0) / len(values)


def deviation(values: Sequence[Any]) -> Any:
    """The standard deviation about the mean: float (H, W) for arrays (H, W) or (H, W, C), where it is the root of the
    sum over the channels; {name: float} for mappings. NaN where there are fewer than two numbers."""
    if isinstance(values[0], Mapping):
        return {name: float(deviation([np.asarray(v[name], np.float64) for v in values])) for name in values[0]}
    stacked = np.stack(values).astype(np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        variance = np.where(np.isfinite(stacked).sum(0) > 1, np.nanvar(stacked, axis=0), np.nan)
    return np.sqrt(variance.sum(-1) if variance.ndim == 3 else variance)

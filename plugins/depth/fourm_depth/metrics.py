"""Metrics of depth, and the constant depths that are best by the first of them.

In: float32 (H, W) maps in metres. Pixels count where the truth has a measurement; a missing prediction there counts as
a depth of 0. All metrics are means over the pixels of all maps together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Maps = Sequence[np.ndarray]


def absolute_relative_error(predictions: Maps, truths: Maps) -> float:
    """Mean |prediction - truth| / truth."""
    p, t = _pixels(predictions, truths)
    return float(np.mean(abs(p - t) / t))


def delta1(predictions: Maps, truths: Maps) -> float:
    """Share of pixels within a factor of 1.25."""
    p, t = _pixels(predictions, truths)
    return float(np.mean(np.maximum(p, t) < 1.25 * np.minimum(p, t)))


def root_mean_squared_error(predictions: Maps, truths: Maps) -> float:
    """Metres."""
    p, t = _pixels(predictions, truths)
    return float(np.sqrt(np.mean((p - t) ** 2)))


def aligned(measure: Callable[[Maps, Maps], float]) -> Callable[[Maps, Maps], float]:
    """`measure` for predictions of unknown scale and offset: each is first fitted to its truth by least squares."""

    def compute(predictions: Maps, truths: Maps) -> float:
        return measure([fitted(p, t) for p, t in zip(predictions, truths, strict=True)], truths)

    return compute


def constants(truths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The depth and the map of least mean absolute relative error, from (n, H, W). The error is sum |c - d| / d, so c
    is the median of d with weights 1 / d."""
    value = _weighted_median(truths.reshape(-1, 1))[0]
    image = _weighted_median(truths.reshape(len(truths), -1)).reshape(truths.shape[1:])
    return np.full_like(image, value), np.where(np.isfinite(image), image, value)


def _weighted_median(depths: np.ndarray) -> np.ndarray:
    """(columns,): the median of each column of (rows, columns) with weights 1 / depth; NaN for a column of NaN."""
    ordered = np.sort(depths, axis=0)  # NaN last
    weights = np.nan_to_num(1 / ordered.astype(np.float64))
    reached = np.cumsum(weights, axis=0)
    row = (reached < reached[-1] / 2).sum(0)
    return ordered[np.minimum(row, len(ordered) - 1), np.arange(ordered.shape[1])]


def _pixels(predictions: Maps, truths: Maps) -> tuple[np.ndarray, np.ndarray]:
    pairs = [(p[np.isfinite(t)], t[np.isfinite(t)]) for p, t in zip(predictions, truths, strict=True)]
    p, t = (np.concatenate(side).astype(np.float64) for side in zip(*pairs, strict=True))
    return np.nan_to_num(p, nan=0.0), t


def fitted(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """A map of unknown scale and offset, fitted by least squares to the pixels that the truth (NaN: unknown) has."""
    known = np.isfinite(prediction) & np.isfinite(truth)
    if not known.any():
        return prediction
    x, y = prediction[known].astype(np.float64), truth[known].astype(np.float64)
    spread = x.var()
    scale = np.mean((x - x.mean()) * (y - y.mean())) / spread if spread > 1e-12 else 0.0
    return scale * (prediction - x.mean()) + y.mean()

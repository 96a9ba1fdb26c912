"""Metrics of normals, and the constant normals that are best by the first of them.

In: float32 (H, W, 3) maps of unit vectors. Pixels count where the truth has a normal; a missing prediction there is
wrong by 180 degrees. Angles are in degrees, over the pixels of all maps together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Maps = Sequence[np.ndarray]


def angles(predictions: Maps, truths: Maps) -> np.ndarray:
    """(pixels,) degrees between predicted and true normals."""
    degrees = []
    for p, t in zip(predictions, truths, strict=True):
        known = np.isfinite(t).all(-1)
        # By the chord, which is precise for small angles, unlike the arc cosine of a product.
        chord = np.linalg.norm(p[known].astype(np.float64) - t[known], axis=-1)
        degrees.append(np.degrees(2 * np.arcsin(np.minimum(chord / 2, 1))))
    return np.nan_to_num(np.concatenate(degrees), nan=180.0)


def mean_angle(predictions: Maps, truths: Maps) -> float:
    return float(angles(predictions, truths).mean())


def median_angle(predictions: Maps, truths: Maps) -> float:
    return float(np.median(angles(predictions, truths)))


def share_within(limit: float) -> Callable[[Maps, Maps], float]:
    """Share of pixels off by less than `limit` degrees."""
    return lambda predictions, truths: float((angles(predictions, truths) < limit).mean())


def constants(truths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The direction and the map of least mean angle, from (n, H, W, 3)."""
    height, width = truths.shape[1:3]
    vectors = truths.reshape(-1, 3)
    vectors = vectors[np.isfinite(vectors).all(-1)]
    # Stored normals have 8 bits, so few are different: one weighted row for each stands for millions of pixels.
    x, y, z = np.rint((vectors + 1) * 127.5).astype(np.int32).T
    codes, counts = np.unique((x << 16) + (y << 8) + z, return_counts=True)
    distinct = _unit(np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=-1) / 127.5 - 1)
    direction = geodesic_median(distinct[:, None], counts[:, None])[0]
    image = np.empty((height, width, 3), np.float32)
    for row in range(height):
        image[row] = geodesic_median(truths[:, row])
    value = np.broadcast_to(direction, image.shape).astype(np.float32)
    return value, np.where(np.isfinite(image), image, value)


def geodesic_median(vectors: np.ndarray, weights: np.ndarray | None = None, *, steps: int = 20) -> np.ndarray:
    """(columns, 3) unit vectors of least mean angle to each column of unit vectors (n, columns, 3), by Weiszfeld's
    iteration on the sphere (Fletcher et al. 2009, "The geometric median on Riemannian manifolds"). Rows of NaN are
    skipped; a column with nothing else gives NaN."""
    known = np.isfinite(vectors).all(-1)
    weights = known if weights is None else weights * known
    x, weights = np.nan_to_num(vectors).astype(np.float32), weights.astype(np.float32)
    centre = _unit(np.einsum("nc,nci->ci", weights, x))
    for _ in range(steps):
        cosine = np.clip(np.einsum("nci,ci->nc", x, centre), -1, 1)
        # On the tangent plane a vector's length is its angle. Weighted by 1 / angle, only its direction remains, which
        # is (x - cosine * centre) / sine.
        scale = weights / np.sqrt(np.maximum(1 - cosine**2, 1e-6))
        move = np.einsum("nc,nci->ci", scale, x) - np.einsum("nc,nc->c", scale, cosine)[:, None] * centre
        move /= np.maximum((weights / np.maximum(np.arccos(cosine), 1e-3)).sum(0), 1e-12)[:, None]
        length = np.linalg.norm(move, axis=-1, keepdims=True)
        centre = _unit(np.cos(length) * centre + np.sinc(length / np.pi) * move)
        if length.max() < 3e-4:  # 0.02 degrees
            break
    centre[~known.any(0)] = np.nan
    return centre


def _unit(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.where(length < 1e-9, np.array([0.0, 0.0, 1.0]), vectors / np.maximum(length, 1e-9))

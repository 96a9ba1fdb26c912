"""NormalLabeller: surface normals from metric depth, by geometry alone.

In: float32 (H, W) z-depth in metres, NaN where there is none. Out: float32 (H, W, 3) unit vectors in the camera's frame
(x right, y up, z towards the viewer), NaN where they are unknown. Each pixel is a point of a pinhole camera; its normal
is the cross product of the differences to its neighbours. Of the two neighbours along an axis the one nearer in depth
is taken, so that a surface does not bend towards what lies behind its edge.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field

from fourm_plugins import Labeller, SampleError, Settings


class NormalOptions(Settings):
    #: Horizontal field of view of the camera in degrees, from one edge of the picture to the other.
    fov: float = Field(default=60.0, gt=0, lt=180)
    #: Instead of it, the camera's (fx, fy, cx, cy) as shares of the picture's width and height.
    intrinsics: tuple[float, float, float, float] | None = None


class NormalLabeller(Labeller):
    def __init__(self, options: NormalOptions) -> None:
        if options.intrinsics is not None and min(options.intrinsics[:2]) <= 0:
            raise ValueError(f"intrinsics {options.intrinsics}: focal lengths are positive")
        self._options = options

    def label(self, values: Sequence[np.ndarray]) -> list[Any]:
        return [self._label(value) for value in values]

    def _label(self, depth_HW: np.ndarray) -> np.ndarray | SampleError:
        if not (isinstance(depth_HW, np.ndarray) and depth_HW.ndim == 2 and depth_HW.dtype.kind == "f"):
            kind = f"{depth_HW.dtype} {depth_HW.shape}" if isinstance(depth_HW, np.ndarray) else type(depth_HW).__name__
            raise ValueError(f"normals are made from depth maps, float (H, W), not from {kind}")
        if min(depth_HW.shape) < 2:
            return SampleError(f"a depth map of {depth_HW.shape[0]}x{depth_HW.shape[1]} pixels has no normals")
        height, width = depth_HW.shape
        if self._options.intrinsics is None:
            focal = 0.5 / np.tan(np.radians(self._options.fov) / 2) * width
            intrinsics = (focal, focal, width / 2, height / 2)
        else:
            fx, fy, cx, cy = self._options.intrinsics
            intrinsics = (fx * width, fy * height, cx * width, cy * height)
        normals = normals_of_depth(depth_HW, intrinsics)
        return normals if np.isfinite(normals).any() else SampleError("no pixel has depth beside it in both directions")


def normals_of_depth(depth_HW: np.ndarray, intrinsics: tuple[float, float, float, float]) -> np.ndarray:
    """float32 (H, W, 3) of z-depth; `intrinsics` are fx, fy, cx, cy in pixels, the centre of the first pixel at 0.5."""
    fx, fy, cx, cy = intrinsics
    z = depth_HW.astype(np.float64)
    rows, columns = np.indices(z.shape)
    points = np.stack([(columns + 0.5 - cx) / fx * z, -(rows + 0.5 - cy) / fy * z, -z], axis=-1)
    right = _difference(points, axis=1)
    down = _difference(points, axis=0)
    normals = np.cross(down, right)  # towards the viewer where the surface faces it
    normals *= np.where((normals * points).sum(-1, keepdims=True) > 0, -1, 1)
    length = np.linalg.norm(normals, axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(length > 1e-12, normals / length, np.nan).astype(np.float32)


def _difference(points_HW3: np.ndarray, axis: int) -> np.ndarray:
    """The difference to the next pixel, or from the previous one, whichever is nearer in depth; NaN if neither is
    known."""
    forward = np.full_like(points_HW3, np.nan)
    ahead = [slice(None)] * 3
    behind = [slice(None)] * 3
    ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
    forward[tuple(behind)] = points_HW3[tuple(ahead)] - points_HW3[tuple(behind)]
    backward = np.full_like(points_HW3, np.nan)
    backward[tuple(ahead)] = forward[tuple(behind)]
    # NaN compares as False: an unknown `forward` leaves `backward`.
    step, other = abs(forward[..., 2:]), abs(backward[..., 2:])
    return np.where((step <= other) | np.isnan(other), forward, backward)

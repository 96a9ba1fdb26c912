"""Checks whether a view shows the right part of the picture, for values that are arrays and for rendered ones.

The reference is simple and slow: it locates each pixel of the view in the source.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from fourm_plugins.spec import ClassMap, FeatureMap
from fourm_plugins.testing.check import require
from fourm_plugins.testing.subject import Subject
from fourm_plugins.view import View

#: Share of the pixels that may lie on the wrong side of a marked region.
STRAY_PIXELS = 0.02
_MARGIN = 1.5  # pixels around the region's edge that are ignored
_COARSE = 16  # side in pixels below which no pixel lies wholly in the marked region
_CELLS = 32  # side to which renderings are reduced


def check_geometry(subject: Subject) -> None:
    """Raise CheckFailed unless views of a value show what lies there."""
    marker = _marker(subject)
    if marker is None:
        _check_drawn(subject)
        return
    crops = [(0.0, 0.0, 1.0, 1.0), (0.05, 0.1, 0.9, 0.7), (0.25, 0.05, 0.7, 0.9)]
    for view in (View(*crop, flip=flip) for crop in crops for flip in (False, True)):
        array = np.asarray(subject.array(marker, view), np.float64)
        pixels = array.reshape(-1, *array.shape[-2:])  # (channels, H, W)
        if min(pixels.shape[1:]) < _COARSE:
            _check_coarse(pixels, view)
            continue
        stray = _stray(pixels, *_reference(pixels.shape[1:], view))
        require(
            stray <= STRAY_PIXELS,
            f"through {view} {stray:.0%} of the pixels do not show what lies there; see View.pixels",
        )


# A marked region


def _in_mark(y: float, x: float) -> bool:
    """An off-centre L, which looks different when flipped, rotated or shifted; y, x in [0, 1] of the picture."""
    return (0.3 <= y < 0.8 and 0.2 <= x < 0.45) or (0.6 <= y < 0.8 and 0.2 <= x < 0.8)


def _marker(subject: Subject) -> np.ndarray | None:
    """A value with rows and columns first in which the L contains another example's pixel; None if values are not
    arrays."""
    if not isinstance(subject.spec.array, (FeatureMap, ClassMap)):
        return None
    value = subject.values[0]
    if not isinstance(value, np.ndarray) or value.ndim not in (2, 3) or min(value.shape[:2]) < 4:
        return None
    if (aspect := subject.modality.aspect(value)) and abs(aspect - value.shape[1] / value.shape[0]) > 1e-6:
        return None
    height, width = value.shape[:2]
    rows = value.reshape(height * width, -1)
    known = np.isfinite(rows).all(1) & ((rows >= 0).all(1) if isinstance(subject.spec.array, ClassMap) else True)
    rows = np.unique(rows[known], axis=0)
    far = np.abs(rows.astype(np.float64) - rows[0]).sum(1).argmax()
    require(len(rows) > 1, "the first example is the same everywhere; draw one that shows something")
    scale = 64 // min(height, width) + 1
    ys, xs = ((np.arange(n * scale) + 0.5) / (n * scale) for n in (height, width))
    mark = np.array([[_in_mark(y, x) for x in xs] for y in ys])
    marked = np.where(mark[..., None], rows[far], rows[0]).reshape(*mark.shape, *value.shape[2:])
    return np.asarray(marked, value.dtype)


def _reference(shape: tuple[int, int], view: View) -> tuple[np.ndarray, np.ndarray]:
    """Two bool (H, W): pixels wholly inside the L, and wholly outside, seen through `view`."""
    inside, outside = np.zeros(shape, bool), np.zeros(shape, bool)
    steps = (-_MARGIN, 0, _MARGIN)
    for i in range(shape[0]):
        for j in range(shape[1]):
            y, x = i + 0.5, j + 0.5
            marked = [_seen_mark((y + a) / shape[0], (x + b) / shape[1], view) for a in steps for b in steps]
            inside[i, j], outside[i, j] = all(marked), not any(marked)
    return inside, outside


def _seen_mark(y: float, x: float, view: View) -> bool:
    """Whether y, x in [0, 1] of the view lies in the L."""
    x = 1 - x if view.flip else x
    return _in_mark(view.top + y * view.height, view.left + x * view.width)


def _stray(pixels: np.ndarray, inside: np.ndarray, outside: np.ndarray) -> float:
    """Share of the pixels (C, H, W) whose value is nearer to the other side's mean."""
    sides = (inside, outside)
    means = [np.nanmean(pixels[:, side], axis=1) for side in sides]
    if np.allclose(*means):
        return 1.0
    near = [np.abs(pixels - mean[:, None, None]).sum(0) for mean in means]
    wrong = sum(int((near[i] >= near[1 - i])[side].sum()) for i, side in enumerate(sides))
    return wrong / sum(int(side.sum()) for side in sides)


def _check_coarse(pixels: np.ndarray, view: View) -> None:
    """If a pixel is as large as the L's arms, the array must correlate with the L's share of each pixel, and more so
    than through a wrong view."""
    right = _follows(pixels, view)
    for name, wrong in _wrong_views(view).items():
        other = _follows(pixels, wrong)
        require(right > other, f"through {view} the array looks as if augment {name}; see View.pixels")


def _follows(pixels: np.ndarray, view: View) -> float:
    """Mean correlation of the channels with the L's share of each pixel."""
    height, width = pixels.shape[1:]
    steps = [(k + 0.5) / 8 for k in range(8)]
    share = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            share[i, j] = sum(_seen_mark((i + a) / height, (j + b) / width, view) for a in steps for b in steps)
    varied = [channel.ravel() for channel in pixels if channel.std() > 1e-6]
    if not varied or share.std() < 1e-6:
        return 0.0
    return float(np.mean([abs(np.corrcoef(channel, share.ravel())[0, 1]) for channel in varied]))


def _wrong_views(view: View) -> dict[str, View]:
    """Error -> the resulting view, if it differs from `view`."""
    top, left, height, width = view.top, view.left, view.height, view.width
    views = {
        "does not flip": View(top, left, height, width, flip=not view.flip),
        "does not crop": View(flip=view.flip),
        "flips before it crops": View(top, max(0.0, 1 - left - width), height, width, flip=view.flip),
        "takes rows for columns": View(left, top, width, height, flip=view.flip),
    }
    right = view.to_row()
    return {name: wrong for name, wrong in views.items() if np.abs(np.subtract(wrong.to_row(), right)).max() > 0.1}


# Drawn pictures


def _check_drawn(subject: Subject) -> None:
    """If values are not arrays, check what `render` draws: through a view it must look like that view of the whole
    rendering, and more so than like any wrong view."""
    view = View(0.1, 0.05, 0.8, 0.7, flip=True)
    wrong = _wrong_views(view)
    errors = dict.fromkeys(["", *wrong], 0.0)
    for value in subject.values:
        whole = _drawing(subject, value, View())
        seen = _drawing(subject, value, view)
        for name, how in {"": view, **wrong}.items():
            errors[name] += float(np.abs(_reduced(seen) - _reduced(_look(whole, how))).mean())
    for name in wrong:
        require(
            errors[""] < errors[name],
            f"what is drawn looks as if augment {name} (off by {errors[name]:.3g}, as a right view {errors['']:.3g})",
        )


def _drawing(subject: Subject, value: Any, view: View) -> np.ndarray:
    shown: Any = subject.modality.render(subject.modality.augment(value, view))
    require(isinstance(shown, Image.Image), "render gave a picture and now gives none")
    return np.asarray(shown.convert("RGB"), np.float64)


def _look(picture: np.ndarray, view: View) -> np.ndarray:
    """The part of a rendering that a view shows, by nearest pixels."""
    height, width = picture.shape[:2]
    rows = [int((view.top + (i + 0.5) / height * view.height) * height) for i in range(height)]
    columns = [int((view.left + (j + 0.5) / width * view.width) * width) for j in range(width)]
    seen = np.asarray(picture[np.ix_(np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1))])
    return seen[:, ::-1] if view.flip else seen


def _reduced(picture: np.ndarray) -> np.ndarray:
    small = Image.fromarray(picture.astype(np.uint8)).resize((_CELLS, _CELLS), Image.Resampling.BOX)
    return np.asarray(small, np.float64)

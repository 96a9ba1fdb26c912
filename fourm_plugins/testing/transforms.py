"""Geometry and values: the shared View, normalisation both ways, metrics.

The reference for geometry is obvious and slow: for each pixel of the view, where it lies in the source.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from fourm_plugins.arrays import misfit
from fourm_plugins.spec import ClassMap, FeatureMap, FeatureVector
from fourm_plugins.testing.check import Check, require
from fourm_plugins.testing.compare import distance, global_seed, same, spread
from fourm_plugins.testing.subject import Subject
from fourm_plugins.view import View

#: How much an array may change on the way to the value and back, as a share of the examples' spread.
VALUE_TOLERANCE = 0.05
#: Share of the pixels that may lie on the wrong side of a marked region.
STRAY_PIXELS = 0.02
_MARGIN = 1.5  # pixels about the region's edge that are not looked at
_COARSE = 16  # pixels a side, below which no pixel lies wholly in the marked region
_CELLS = 32  # a side, to which drawn pictures are reduced


def every_view_fits(subject: Subject) -> None:
    """Through any view the array is as the spec describes."""
    for value in subject.values:
        for view in _views(8):
            wrong = misfit(subject.spec, subject.array(value, view))
            require(not wrong, f"through {view}: {wrong}")


def augment_is_deterministic(subject: Subject) -> None:
    """The same value through the same view gives the same array: all randomness is the view's."""
    for value, view in zip(subject.values, _views(8), strict=False):
        arrays = []
        for seed in (0, 1):
            with global_seed(seed):
                arrays.append(subject.array(value, view))
        require(same(*arrays), f"the same value through {view} gives two arrays")


def variants_are_stated(subject: Subject) -> None:
    """Views that differ only in `variant` show the same, unless the class says `variants = True`."""
    if subject.modality.variants:
        return
    for value, view in zip(subject.values, _views(8), strict=False):
        first, second = (subject.array(value, replace(view, variant=variant)) for variant in (0, 1))
        require(
            same(first, second), f"the variants 0 and 1 of {view} differ; set the class attribute `variants = True`"
        )


def view_moves_the_picture(subject: Subject) -> None:
    """A view shows the same part of the picture, cropped and flipped, as it does of every other modality."""
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


def flip_mirrors(subject: Subject) -> None:
    """A flip mirrors the array left to right and changes only what is claimed to change."""
    scale = spread(subject.arrays)
    for value in subject.values:
        plain, flipped = subject.array(value, View(0.1, 0.2, 0.7, 0.6)), subject.array(value, _FLIPPED)
        mirrored = plain[..., ::-1]
        error = distance(mirrored, flipped)
        as_directions = distance(_unsigned(mirrored), _unsigned(flipped))
        if "directions" in subject.claims or _unstated(subject):
            error = min(error, as_directions)
        hint = ""
        if as_directions <= 0.02 * scale:
            hint = ", in the sign of its first component alone; what holds vectors claims `directions`"
        require(error <= 0.02 * scale, f"a flipped view differs from the mirrored array by {error:.3g}{hint}")


def directions_are_stated(subject: Subject) -> None:
    """An aligned array with several numbers per position claims `directions` or `no_directions`."""
    both = {"directions", "no_directions"} <= subject.claims
    require(not both, "it claims both `directions` and `no_directions`; claim the one that holds")
    if not _unstated(subject):
        return
    plain = View(0.1, 0.2, 0.7, 0.6)
    seen = [(subject.array(value, plain), subject.array(value, _FLIPPED)) for value in subject.values]
    signs = all(_changes_sign(plain, flipped) for plain, flipped in seen)
    told = (
        'its first component changes its sign under a flip, as of vectors: write claims = frozenset({"directions"})'
        if signs
        else "where they are vectors (flow, normals), the first points to the right, augment changes its sign under a "
        'flip, and the class says claims = frozenset({"directions"}); where not, it says frozenset({"no_directions"})'
    )
    require(False, f"a place of its array holds several numbers; {told}")


def directions_change_sign(subject: Subject) -> None:
    """A flip changes the sign of every vector's first component."""
    for value in subject.values:
        plain, flipped = subject.array(value, View(0.1, 0.2, 0.7, 0.6)), subject.array(value, _FLIPPED)
        require(
            _changes_sign(plain, flipped),
            "what points to the right points to the right in the mirrored picture, too; augment must change the sign "
            "of the first component where view.flip",
        )


def flip_twice_restores(subject: Subject) -> None:
    """A value flipped twice is unchanged, be it a picture, boxes or a sentence."""
    scale = spread(subject.arrays)
    modality = subject.modality
    for value in subject.values:
        once = modality.augment(value, View())
        twice = modality.augment(modality.augment(once, View(flip=True)), View(flip=True))
        error = distance(modality.normalise(once), modality.normalise(twice))
        require(error <= 0.02 * scale, f"flipped twice it differs by {error:.3g} from what it was")


def value_survives_its_array(subject: Subject) -> None:
    """`denormalise` undoes `normalise`: the value of an array has that array again."""
    scale = spread(subject.arrays)
    for array in subject.arrays:
        again = subject.modality.normalise(subject.modality.denormalise(array))
        wrong = misfit(subject.spec, again)
        require(not wrong, f"denormalised and normalised again: {wrong}")
        error = distance(array, again)
        require(
            error <= VALUE_TOLERANCE * scale,
            f"denormalised and normalised again it differs by {error:.3g}, examples by {scale:.3g}",
        )


def metrics_prefer_the_truth(subject: Subject) -> None:
    """By every metric, the truth scores at least as well as the examples in another order."""
    values = [_seen(subject, value) for value in subject.values]
    for metric in subject.modality.metrics():
        right, shuffled = (float(metric.compute(p, values)) for p in (values, [*values[1:], values[0]]))
        better = right >= shuffled if metric.higher_is_better else right <= shuffled
        told = "higher" if metric.higher_is_better else "lower"
        require(better, f"{metric.name}: the truth scores {right:.4g}, other samples {shuffled:.4g}; {told} is better")


def constants_are_values(subject: Subject) -> None:
    """The constant predictors are values: they can be shown, normalised and measured."""
    values = [_seen(subject, value) for value in subject.values]
    for name, value in subject.modality.constants(values).items():
        wrong = misfit(subject.spec, subject.modality.normalise(value))
        require(not wrong, f"constant {name!r}: {wrong}")
        for metric in subject.modality.metrics():
            score = float(metric.compute([value] * len(values), values))
            require(np.isfinite(score), f"constant {name!r}: {metric.name} is {score}")


_FLIPPED = View(0.1, 0.2, 0.7, 0.6, flip=True)


def _seen(subject: Subject, value: Any) -> Any:
    return subject.modality.augment(value, View())


def _views(n: int) -> Iterator[View]:
    rng = np.random.default_rng(0)
    for number in range(n):
        # Crops of a value whose shape is that of the view's source; the modality's own shape is made of it.
        yield View.random(rng, source_aspect=1.0, scale=(0.4, 1.0), variant=number)


def _unstated(subject: Subject) -> bool:
    """Whether the array may hold vectors without anything saying whether it does."""
    array = subject.spec.array
    several = isinstance(array, FeatureVector) or (isinstance(array, FeatureMap) and array.channels > 1)
    return several and not {"directions", "no_directions"} & subject.claims


def _changes_sign(plain: np.ndarray, flipped: np.ndarray) -> bool:
    """Whether the first component of an array (C, H, W), or of a vector (C,), is nearer to its mirrored negative."""
    mirrored = plain[0][..., ::-1] if plain.ndim > 1 else plain[:1]
    seen = flipped[0] if flipped.ndim > 1 else flipped[:1]
    return distance(-mirrored, seen) < distance(mirrored, seen)


def _unsigned(array: np.ndarray) -> np.ndarray:
    """The first component without its sign."""
    return np.concatenate([np.abs(array[:1]), array[1:]])


# A marked region


def _in_mark(y: float, x: float) -> bool:
    """An off-centre L, which looks different when flipped, turned or shifted; y, x in [0, 1] of the picture."""
    return (0.3 <= y < 0.8 and 0.2 <= x < 0.45) or (0.6 <= y < 0.8 and 0.2 <= x < 0.8)


def _marker(subject: Subject) -> np.ndarray | None:
    """A value with rows and columns first in which the L holds another example's pixel; None if values are not
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
    mark = np.array(
        [
            [_in_mark((i + 0.5) / (height * scale), (j + 0.5) / (width * scale)) for j in range(width * scale)]
            for i in range(height * scale)
        ]
    )
    marked = np.where(mark[..., None], rows[far], rows[0]).reshape(*mark.shape, *value.shape[2:])
    return np.asarray(marked, value.dtype)


def _reference(shape: tuple[int, int], view: View) -> tuple[np.ndarray, np.ndarray]:
    """Two bool (H, W): pixels wholly inside the L, and wholly outside, seen through `view`."""
    inside, outside = np.zeros(shape, bool), np.zeros(shape, bool)
    steps = (-_MARGIN, 0, _MARGIN)
    for i in range(shape[0]):
        for j in range(shape[1]):
            marked = [
                _seen_mark((i + 0.5 + a) / shape[0], (j + 0.5 + b) / shape[1], view) for a in steps for b in steps
            ]
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
    """If a pixel is as large as the L's arms, the array must follow the L's share of each pixel, and better than
    through a wrong view."""
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
    """What goes wrong -> the view that would result, if it differs from `view`."""
    top, left, height, width = view.top, view.left, view.height, view.width
    views = {
        "does not flip": View(top, left, height, width, flip=not view.flip),
        "does not crop": View(flip=view.flip),
        "flips before it crops": View(top, max(0.0, 1 - left - width), height, width, flip=view.flip),
        "takes rows for columns": View(left, top, width, height, flip=view.flip),
    }
    return {
        name: wrong for name, wrong in views.items() if np.abs(np.subtract(wrong.to_row(), view.to_row())).max() > 0.1
    }


# Drawn pictures


def _check_drawn(subject: Subject) -> None:
    """If values are not arrays, check what `render` draws: through a view it must look like that view of the whole
    drawing, and more so than like any wrong view."""
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
    """The part of a drawing that a view shows, by nearest pixels."""
    height, width = picture.shape[:2]
    rows = [int((view.top + (i + 0.5) / height * view.height) * height) for i in range(height)]
    columns = [int((view.left + (j + 0.5) / width * view.width) * width) for j in range(width)]
    seen = np.asarray(picture[np.ix_(np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1))])
    return seen[:, ::-1] if view.flip else seen


def _reduced(picture: np.ndarray) -> np.ndarray:
    small = Image.fromarray(picture.astype(np.uint8)).resize((_CELLS, _CELLS), Image.Resampling.BOX)
    return np.asarray(small, np.float64)


CHECKS: tuple[Check, ...] = (
    Check(every_view_fits),
    Check(augment_is_deterministic),
    Check(variants_are_stated),
    Check(view_moves_the_picture, claims=("picture",)),
    Check(flip_mirrors, claims=("grid",)),
    Check(directions_are_stated, claims=("aligned",)),
    Check(directions_change_sign, claims=("directions",)),
    Check(flip_twice_restores, claims=("aligned",)),
    Check(value_survives_its_array),
    Check(metrics_prefer_the_truth, claims=("metrics",)),
    Check(constants_are_values, claims=("constants",)),
)

"""Views and values: what a crop, a flip and a variant change, normalisation both ways, metrics."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from fourm_plugins import calls
from fourm_plugins.arrays import misfit
from fourm_plugins.inputs import describe
from fourm_plugins.spec import ClassMap, FeatureMap, FeatureVector
from fourm_plugins.testing.check import Check, require
from fourm_plugins.testing.compare import distance, global_seed, same, spread
from fourm_plugins.testing.geometry import check_geometry
from fourm_plugins.testing.subject import Subject
from fourm_plugins.view import View

#: How much an array may change when converted to the value and back, as a share of the examples' spread.
VALUE_TOLERANCE = 0.05
#: A side, alone or before "-hand", "_eye", "most" and the like, but not within a word such as "bright".
_SIDE = re.compile(r"(?<![a-z])(left|right)")


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
    """Views that differ only in `variant` show the same, unless the class says `uses_variant = True`."""
    if subject.modality.uses_variant:
        return
    for value, view in zip(subject.values, _views(8), strict=False):
        first, second = (subject.array(value, replace(view, variant=variant)) for variant in (0, 1))
        require(same(first, second), f"the variants 0 and 1 of {view} differ; set `uses_variant = True` in the class")


def view_moves_the_picture(subject: Subject) -> None:
    """A view shows the same part of the picture, cropped and flipped, as it does of every other modality."""
    check_geometry(subject)


def flip_mirrors(subject: Subject) -> None:
    """A flip mirrors the array left to right and changes only what is claimed to change."""
    scale = spread(subject.arrays)
    for value in subject.values:
        plain, flipped = _both_ways(subject, value)
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
    signs = all(_changes_sign(*_both_ways(subject, value)) for value in subject.values)
    remedy = (
        'its first component changes its sign under a flip, as of vectors: write claims = frozenset({"directions"})'
        if signs
        else "where they are vectors (flow, normals), the first points to the right, augment changes its sign under a "
        'flip, and the class says claims = frozenset({"directions"}); where not, it says frozenset({"no_directions"})'
    )
    require(False, f"a position of its array holds several numbers; {remedy}")


def directions_change_sign(subject: Subject) -> None:
    """A flip changes the sign of every vector's first component."""
    for value in subject.values:
        require(
            _changes_sign(*_both_ways(subject, value)),
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


def sides_are_swapped(subject: Subject) -> None:
    """What an example says is left is right in the mirrored picture, and the other way round."""
    halves = View(), View(width=0.5), View(left=0.5, width=0.5)  # one half may show a single hand of two
    for value, view in itertools.product(subject.values, halves):
        said, mirrored = (
            Counter(_SIDE.findall(subject.array(value, replace(view, flip=flip)).lower())) for flip in (False, True)
        )
        swapped = said["left"] == mirrored["right"] and said["right"] == mirrored["left"]
        require(
            swapped,
            f"it says {_sides(said)}, and of the mirrored picture {_sides(mirrored)}; augment must swap left and right "
            "where view.flip",
        )


def value_survives_its_array(subject: Subject) -> None:
    """`denormalise` undoes `normalise`: the value of an array has that array again."""
    scale = spread(subject.arrays)
    for array, value, seen in zip(subject.arrays, subject.denormalised, subject.values):
        kinds = describe(value), describe(_seen(subject, seen))
        compared = isinstance(value, np.ndarray) or isinstance(seen, np.ndarray)
        compared = compared and not misfit(subject.spec, array)  # otherwise `arrays_fit_the_spec` has reported it
        require(not compared or kinds[0] == kinds[1], f"denormalise gives {kinds[0]}, augment {kinds[1]}")
        again = subject.modality.normalise(value)
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
    for metric in subject.metrics:
        right, shuffled = (float(metric.compute(p, values)) for p in (values, [*values[1:], values[0]]))
        better = right >= shuffled if metric.higher_is_better else right <= shuffled
        which = "higher" if metric.higher_is_better else "lower"
        require(better, f"{metric.name}: the truth scores {right:.4g}, other samples {shuffled:.4g}; {which} is better")


def constants_are_values(subject: Subject) -> None:
    """The constant predictors are values: they can be shown, normalised and measured."""
    values = [_seen(subject, value) for value in subject.values]
    for name, value in subject.modality.constants(values).items():
        wrong = misfit(subject.spec, subject.modality.normalise(value))
        require(not wrong, f"constant {name!r}: {wrong}")
        for metric in subject.metrics:
            score = float(metric.compute([value] * len(values), values))
            require(np.isfinite(score), f"constant {name!r}: {metric.name} is {score}")


def values_are_combined(subject: Subject) -> None:
    """Several values are reduced to one in each of the `reductions`, their `spread` is numbers, and an edit a value."""
    modality, values = subject.modality, subject.denormalised
    for how in modality.reductions:
        value = calls.reduce(modality, values, how)
        calls.spread(modality, [*values, value])
    if isinstance(subject.spec.array, (FeatureMap, ClassMap)):
        kept = np.zeros((subject.spec.array.height, subject.spec.array.width), bool)
        kept[: len(kept) // 2] = True
        calls.compose(modality, values[0], values[-1], kept)


def _sides(counts: Counter[str]) -> str:
    return " and ".join(f"{counts[side]} x {side}" for side in sorted(counts)) or "no side"


def _both_ways(subject: Subject, value: Any) -> tuple[Any, Any]:
    """The array of a crop, and that of the same crop flipped."""
    plain = View(0.1, 0.2, 0.7, 0.6)
    return subject.array(value, plain), subject.array(value, replace(plain, flip=True))


def _seen(subject: Subject, value: Any) -> Any:
    return subject.modality.augment(value, View())


def _views(n: int) -> Iterator[View]:
    rng = np.random.default_rng(0)
    for number in range(n):
        # Crops of a value with the shape of the view's source, from which the modality's own shape is derived.
        yield View.random(rng, source_aspect=1.0, scale=(0.4, 1.0), variant=number)


def _unstated(subject: Subject) -> bool:
    """Whether the array may contain vectors without a declaration of whether it does."""
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


CHECKS: tuple[Check, ...] = (
    Check(every_view_fits),
    Check(augment_is_deterministic),
    Check(variants_are_stated),
    Check(view_moves_the_picture, claims=("picture",)),
    Check(flip_mirrors, claims=("grid",)),
    Check(directions_are_stated, claims=("aligned",)),
    Check(directions_change_sign, claims=("directions",)),
    Check(flip_twice_restores, claims=("aligned",)),
    Check(sides_are_swapped, claims=("text",)),
    Check(value_survives_its_array),
    Check(values_are_combined, claims=("target",)),
    Check(metrics_prefer_the_truth, claims=("metrics",)),
    Check(constants_are_values, claims=("constants",)),
)

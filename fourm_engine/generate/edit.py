"""Turns edits into generation requests: regenerate the part under a mask, what lies beyond the edges, or all that a
change affects.

In: a sample, a mask (array, picture or file) or how far to go beyond the edges, and the changes. Out: inputs and
targets for `FourM.generate`, or, from names alone, an `EditPlan` for many samples. Raises ValueError, one line with the
user's names, for an edit that is impossible.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from fourm_engine.generate.input_types import Condition, Ids
from fourm_engine.generate.inputs import read_value
from fourm_engine.generate.masks import read_mask
from fourm_engine.generate.validation import inputs_of, names_of
from fourm_plugins.modality import Modality

#: Width in tokens of the border around a mask that is regenerated, too: it encodes some of the masked pixels.
HALO = 1
#: Maximum share of the picture that outpainting adds at each side.
MAX_SIDE = 4


@dataclass(frozen=True)
class EditPlan:
    """What an edit does, by names.

    `targets`: what is generated. `shown`: the other modalities that the model is given, as they are or changed.
    `partial`: whether a part of each target is edited, its mask's with a border of `halo` tokens; otherwise they are
    generated anew. `sides`: the part lies beyond the edges: shares of left, top, right, bottom."""

    targets: list[str]
    shown: list[str]
    partial: bool
    halo: int
    sides: list[float] | None

    def marked(self, name: str, value: Any, mask: np.ndarray | None) -> tuple[Any, np.ndarray]:
        """The value of a target, within a larger one if it is outpainted, and bool, True where it is known."""
        if self.sides is not None:
            return _outpainted(name, value, self.sides)
        assert mask is not None
        return value, ~mask


def plan_edit(
    sample: Collection[str],
    changed: Collection[str],
    find: Callable[[str], Modality],
    *,
    masked: bool,
    outpaint: float | Sequence[float] | None = None,
    keep: Iterable[str] | str = (),
    halo: int | None = None,
) -> EditPlan:
    """Plans an edit of the modalities in `sample`, of which those `changed` have new values; see `FourM.edit`."""
    kept = names_of("keep", keep)
    if not masked and outpaint is None and not changed:
        raise ValueError("edit: give a mask, or something to change")
    if masked and outpaint is not None:
        raise ValueError("mask and outpaint are alternatives; leave one out")
    if absent := [name for name in kept if name not in sample]:
        raise ValueError(f"keep: the sample has no {absent[0]!r}; it has {', '.join(sample) or 'nothing'}")
    if both := [name for name in kept if name in changed]:
        raise ValueError(f"{both[0]!r} is in both change and keep; leave it out of one")
    rest = [name for name in sample if name not in changed and name not in kept]
    if not masked and outpaint is None:
        if halo is not None:
            raise ValueError("halo has no effect without a mask or outpaint; leave it out")
        if fixed := [name for name in rest if not find(name).spec.target]:
            raise ValueError(f"{fixed[0]!r} is input only and cannot follow the change; keep it, or leave it out")
        if not rest:
            raise ValueError("no modality of the sample is left to follow the change; keep or change fewer")
        return EditPlan(rest, [*kept, *changed], False, 0, None)
    halo = HALO if halo is None else halo
    if not isinstance(halo, int) or halo < 0:
        raise ValueError(f"halo is a number of tokens, 0 or more; given: {halo!r:.80}")
    option = "mask" if outpaint is None else "outpaint"
    targets = [name for name in rest if (spec := find(name).spec).target and spec.layout.kind == "grid"]
    if not targets:
        what = f"{', '.join(rest)}: no grid that can be generated" if rest else "nothing that is not kept or changed"
        raise ValueError(f"{option}: the sample has {what}; a mask edits pictures and maps")
    shown = [name for name in dict.fromkeys([*sample, *changed]) if name not in targets]
    return EditPlan(targets, shown, True, halo, None if outpaint is None else _sides(outpaint))


def edit_request(
    sample: Mapping[str, Any],
    find: Callable[[str], Modality],
    *,
    mask: Any = None,
    outpaint: float | Sequence[float] | None = None,
    change: Mapping[str, Any] | None = None,
    keep: Iterable[str] | str = (),
    halo: int | None = None,
) -> tuple[dict[str, Any], list[str]]:
    """The inputs and targets of an edit; see `FourM.edit`. `find(name)` returns a modality or raises ValueError."""
    if not isinstance(change, Mapping | None):
        raise ValueError(f"change is a mapping {{name: value}}, not {type(change).__name__}")
    (sample,), (change,) = inputs_of([sample]), inputs_of([change or {}])
    plan = plan_edit(sample, change, find, masked=mask is not None, outpaint=outpaint, keep=keep, halo=halo)
    values = {**sample, **change}
    inputs = {name: values[name] for name in plan.shown}
    if not plan.partial:
        return inputs, plan.targets
    option = "mask" if outpaint is None else "outpaint"
    if partial := [name for name in plan.targets if isinstance(sample[name], Condition)]:
        raise ValueError(f"{partial[0]!r}: give the value without a Condition; the {option} says which part is known")
    known = None if mask is None else read_mask(mask)
    for name in plan.targets:
        given = sample[name]
        if outpaint is not None:
            if isinstance(given, Ids):
                raise ValueError(f"{name!r}: outpaint takes values, not token ids; give the picture")
            given = read_value(name, find(name), given)
        inputs[name] = Condition(*plan.marked(name, given, known), halo=plan.halo)
    return inputs, plan.targets


def _sides(outpaint: float | Sequence[float]) -> list[float]:
    """(left, top, right, bottom), shares of the picture's width and height."""
    sides: Any = [outpaint] * 4 if isinstance(outpaint, Real) else outpaint
    right = isinstance(sides, Sequence) and len(sides) == 4 and all(isinstance(side, Real) for side in sides)
    if not (right and all(0 <= side <= MAX_SIDE for side in sides) and any(sides)):
        raise ValueError(
            f"outpaint: a share of the picture's size above 0 and at most {MAX_SIDE}, such as 0.25, or four of them "
            f"(left, top, right, bottom), not all 0; given: {outpaint!r:.80}"
        )
    return [float(side) for side in sides]


def _outpainted(name: str, given: Any, sides: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """The value within a larger one, and where it lies there."""
    value = np.asarray(given)
    (height, width), (left, top, right, bottom) = value.shape[:2], sides
    edges = [(round(top * height), round(bottom * height)), (round(left * width), round(right * width))]
    if not np.any(edges):
        raise ValueError(f"{name!r}: outpaint {max(sides):g} adds no pixel to {height} x {width}; raise it")
    known = np.pad(np.ones((height, width), np.bool_), edges)
    return np.pad(value, [*edges, *[(0, 0)] * (value.ndim - 2)], mode="edge"), known

"""Edits of one sample as requests for generation: a part under a mask anew, or the rest after a change.

In: what a user has of a sample, a mask (an array, a picture or its file) and what to change. Out: the inputs and
targets that `FourM.generate` takes. What cannot be edited so raises ValueError: one line, in the user's names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fourm_engine.generate.inputs import Condition
from fourm_engine.generate.masks import read_mask
from fourm_engine.generate.request import inputs_of, names_of
from fourm_plugins.modality import Modality

#: Tokens around a mask that are generated anew: what encoded them saw some of what the mask hides.
HALO = 1


def edited(
    sample: Mapping[str, Any],
    find: Callable[[str], Modality],
    *,
    mask: Any = None,
    change: Mapping[str, Any] | None = None,
    keep: Iterable[str] | str = (),
    halo: int | None = None,
) -> tuple[dict[str, Any], list[str]]:
    """The inputs and targets of an edit; see `FourM.edit`. `find(name)` gives a modality or raises ValueError."""
    if not isinstance(change, Mapping | None):
        raise ValueError(f"change: {{name: value}} is due, not {type(change).__name__}; say what the value is of")
    (sample,), (change,) = inputs_of([sample]), inputs_of([change or {}])
    kept = names_of("keep", keep)
    if mask is None and not change:
        raise ValueError("edit: give a mask, or something to change")
    if absent := [name for name in kept if name not in sample]:
        raise ValueError(f"keep: the sample has no {absent[0]!r}; it has {', '.join(sample) or 'nothing'}")
    if both := [name for name in kept if name in change]:
        raise ValueError(f"{both[0]!r} is to be changed and kept; leave it out of one")
    rest = [name for name in sample if name not in change and name not in kept]
    if mask is None:
        if halo is not None:
            raise ValueError("halo has no effect without a mask; leave it out")
        if fixed := [name for name in rest if not find(name).spec.target]:
            raise ValueError(f"{fixed[0]!r} is input only and cannot follow the change; keep it, or leave it out")
        if not rest:
            raise ValueError("nothing of the sample is left to follow the change; keep or change less of it")
        return {**{name: sample[name] for name in kept}, **change}, rest
    halo = HALO if halo is None else halo
    if not isinstance(halo, int) or halo < 0:
        raise ValueError(f"halo is a number of tokens, 0 or more; given: {halo!r:.80}")
    targets = [name for name in rest if (spec := find(name).spec).target and spec.layout.kind == "grid"]
    if not targets:
        what = f"{', '.join(rest)}: no grid that can be generated" if rest else "nothing that is not kept or changed"
        raise ValueError(f"mask: the sample has {what}; a mask edits pictures and maps")
    if partial := [name for name in targets if isinstance(sample[name], Condition)]:
        raise ValueError(f"{partial[0]!r}: give its value; the mask says which part of it is known")
    known = ~read_mask(mask)
    return {**sample, **change, **{name: Condition(sample[name], known, halo=halo) for name in targets}}, targets

"""Turns edits into generation requests: regenerate the part under a mask, or everything else after a change.

In: a sample, a mask (array, picture or file) and the changes. Out: inputs and targets for `FourM.generate`. Raises
ValueError, one line with the user's names, for an edit that is impossible.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fourm_engine.generate.input_types import Condition
from fourm_engine.generate.masks import read_mask
from fourm_engine.generate.validation import inputs_of, names_of
from fourm_plugins.modality import Modality

#: Width in tokens of the border around a mask that is regenerated, too: it encodes some of the masked pixels.
HALO = 1


def edit_request(
    sample: Mapping[str, Any],
    find: Callable[[str], Modality],
    *,
    mask: Any = None,
    change: Mapping[str, Any] | None = None,
    keep: Iterable[str] | str = (),
    halo: int | None = None,
) -> tuple[dict[str, Any], list[str]]:
    """The inputs and targets of an edit; see `FourM.edit`. `find(name)` returns a modality or raises ValueError."""
    if not isinstance(change, Mapping | None):
        raise ValueError(f"change is a mapping {{name: value}}, not {type(change).__name__}")
    (sample,), (change,) = inputs_of([sample]), inputs_of([change or {}])
    kept = names_of("keep", keep)
    if mask is None and not change:
        raise ValueError("edit: give a mask, or something to change")
    if absent := [name for name in kept if name not in sample]:
        raise ValueError(f"keep: the sample has no {absent[0]!r}; it has {', '.join(sample) or 'nothing'}")
    if both := [name for name in kept if name in change]:
        raise ValueError(f"{both[0]!r} is in both change and keep; leave it out of one")
    rest = [name for name in sample if name not in change and name not in kept]
    if mask is None:
        if halo is not None:
            raise ValueError("halo has no effect without a mask; leave it out")
        if fixed := [name for name in rest if not find(name).spec.target]:
            raise ValueError(f"{fixed[0]!r} is input only and cannot follow the change; keep it, or leave it out")
        if not rest:
            raise ValueError("no modality of the sample is left to follow the change; keep or change fewer")
        return {**{name: sample[name] for name in kept}, **change}, rest
    halo = HALO if halo is None else halo
    if not isinstance(halo, int) or halo < 0:
        raise ValueError(f"halo is a number of tokens, 0 or more; given: {halo!r:.80}")
    targets = [name for name in rest if (spec := find(name).spec).target and spec.layout.kind == "grid"]
    if not targets:
        what = f"{', '.join(rest)}: no grid that can be generated" if rest else "nothing that is not kept or changed"
        raise ValueError(f"mask: the sample has {what}; a mask edits pictures and maps")
    if partial := [name for name in targets if isinstance(sample[name], Condition)]:
        raise ValueError(f"{partial[0]!r}: give the value without a Condition; the mask says which part is known")
    known = ~read_mask(mask)
    return {**sample, **change, **{name: Condition(sample[name], known, halo=halo) for name in targets}}, targets

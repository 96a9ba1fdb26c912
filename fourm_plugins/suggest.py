"""Suggests the nearest known name for an unknown one."""

from __future__ import annotations

import bisect
import difflib
import inspect
import os
from collections.abc import Callable, Collection, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

#: Number of alphabetical neighbours that are compared in full.
COMPARED = 1000
#: Maximum number of names in a folder that are compared with a missing one.
SEARCHED = 10_000


def nearest(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """The known name most like `name`; None if none is similar. `cutoff` in (0, 1]: 1 accepts equal names only."""
    return next(iter(difflib.get_close_matches(name, sorted(known), n=1, cutoff=cutoff)), None)


def nearest_few(name: str, known: Collection[str]) -> list[str]:
    """The known names most like `name`, at most three; first those that contain it or are contained in it. Among very
    many names, only alphabetical neighbours are compared in full."""
    ordered = sorted(known)
    parts = [other for other in ordered if name and other and (name in other or other in name)]
    at = bisect.bisect(ordered, name)
    alike = difflib.get_close_matches(name, ordered[max(0, at - COMPARED) : at + COMPARED], n=3, cutoff=0.4)
    return list(dict.fromkeys([*sorted(parts, key=len)[:3], *alike]))[:3]


def nearest_path(path: Path) -> Path | None:
    """The existing path most like a missing one: its first missing part is replaced by the nearest name, and parts
    below that as well if missing. None if nothing is similar."""
    there = next((parent for parent in path.parents if parent.is_dir()), None)
    if there is None or not os.access(there, os.R_OK):
        return None
    name, *below = path.relative_to(there).parts
    near = nearest(name, (other.name for other in islice(there.iterdir(), SEARCHED)))
    if near is None:
        return None
    whole = Path(there, near, *below)
    return whole if whole.exists() else there / near


def did_you_mean(name: str, known: Iterable[str], *, otherwise: str = "known:") -> str:
    """The end of a message about an unknown name: "did you mean 'depth'?", or `otherwise` and all known names."""
    known = sorted(known)
    near = nearest(name, known)
    return f"did you mean {near!r}?" if near else f"{otherwise} {', '.join(known) or 'none'}"


def check_options(make: Callable[..., Any], options: Iterable[str], *, besides: Collection[str] = ()) -> None:
    """Raise ValueError for an option that `make` does not accept. Its first argument, and those in `besides`, are not
    options."""
    parameters = list(inspect.signature(make).parameters.values())
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    known = [p.name for p in parameters[1:] if p.kind is not p.VAR_POSITIONAL and p.name not in besides]
    for name in options:
        if name not in known:
            raise ValueError(f"there is no option {name}; {did_you_mean(name, known, otherwise='there are:')}")

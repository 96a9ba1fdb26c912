"""What to say of a name that is not known: the nearest one that is."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """The known name most like `name`; None where none is alike. `cutoff` in (0, 1]: 1 takes equal names only."""
    return next(iter(difflib.get_close_matches(name, sorted(known), n=1, cutoff=cutoff)), None)


def did_you_mean(name: str, known: Iterable[str], *, otherwise: str = "known:") -> str:
    """The end of a message about an unknown name: "did you mean 'depth'?", or `otherwise` and all known names."""
    known = sorted(known)
    near = nearest(name, known)
    return f"did you mean {near!r}?" if near else f"{otherwise} {', '.join(known) or 'none'}"

"""Types of the columns of data that a package opens: compared with what is wanted before any value is read.

In: a type as `SampleSource.column_type` describes it. Out: its spelling, and an error for a type that does not fit.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

LABELS = "text", "integer", "class"


def spelled(kind: Any) -> str:
    """A type in words, such as "{bbox: [[number]], category: [class]}"."""
    if isinstance(kind, dict):
        return f"{{{', '.join(f'{field}: {spelled(inner)}' for field, inner in kind.items())}}}"
    if isinstance(kind, list):
        return f"[{spelled(kind[0])}]" if kind else "[]"
    return "class" if isinstance(kind, tuple) else str(kind)


def check_type(kind: Any, wanted: Collection[str], where: str, what: str) -> None:
    """Raise ValueError, starting with `where`, if the spelling of a known type is none of those `wanted`; `what`: these
    in words."""
    if kind is not None and spelled(kind) not in wanted:
        raise ValueError(f"{where}: of type {spelled(kind)}, not {what}; name another column")


def check_labels(kind: Any, where: str, *, several: bool = True) -> None:
    """Raise ValueError, starting with `where`, for a type that is neither a label nor, with `several`, a list of
    them."""
    lists = [f"[{label}]" for label in LABELS] if several else []
    check_type(
        kind, [*LABELS, *lists], where, "text, an integer or a class" + (", or a list of them" if several else "")
    )

"""Formats counts and lists for people."""

from __future__ import annotations

from collections.abc import Iterable


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number and its noun: "1 file", "1,200 files". `plural`: if it is not `noun` and an s."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def some(things: Iterable[object], separator: str = ", ", *, most: int = 5) -> str:
    """The first few items, and the number of remaining ones: "a, b and 3 more"."""
    texts = list(map(str, things))
    more = f" and {len(texts) - most:,} more" if len(texts) > most else ""
    return separator.join(texts[:most]) + more

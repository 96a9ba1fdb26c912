"""Formats counts, measures, lists and texts for people.

Counts have separators, "1,200 files"; what is a name or is typed again has none: a step, a seed, a setting."""

from __future__ import annotations

from collections.abc import Iterable


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number and its noun: "1 file", "1,200 files". `plural`: if it is not `noun` and an s."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def number(value: float | None) -> str:
    """Three significant digits, and from 1,000 all before the point; a dash for unknown."""
    if value is None or value != value:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 999.5 else f"{value or 0.0:.3g}"


def decimals(value: float, digits: int, sign: str = "") -> str:
    """A number with `digits` decimals. With `sign="+"`, a positive one has its sign. What rounds to zero has none."""
    text = f"{value:{sign}.{digits}f}"
    return text if float(text) else text.lstrip("+-")


def some(things: Iterable[object], separator: str = ", ", *, most: int = 5) -> str:
    """The first few items, and the number of remaining ones: "a, b and 3 more"."""
    texts = list(map(str, things))
    more = f" and {len(texts) - most:,} more" if len(texts) > most else ""
    return separator.join(texts[:most]) + more


def printable(text: str, *, most: int | None = None) -> str:
    """`text`, at most `most` characters, with "?" for each unprintable one: control characters in text from files could
    drive a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)[:most]

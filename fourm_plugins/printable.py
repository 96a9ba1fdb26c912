"""Makes text from files safe to print: control characters could drive a terminal."""

from __future__ import annotations


def printable(text: str, *, most: int | None = None) -> str:
    """`text` with each unprintable character replaced by "?", at most `most` characters."""
    return "".join(c if c.isprintable() else "?" for c in text)[:most]

"""Numbers of things, as people write them."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number and its noun: "1 file", "1,200 files". `plural`: where it is not `noun` and an s."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"

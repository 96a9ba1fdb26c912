"""Explains in one line why files of two modalities do not match: how their names differ.

In: the sample names of each source. Out: messages for the user. Only equal names match; near misses are reported.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Mapping

from fourm_engine.data.names_table import Names
from fourm_engine.data.raw.names import shown

#: Maximum number of names compared per source.
MAX_COMPARED = 100_000
_EXTENSION = re.compile(r"\.(png|jpe?g|webp|tiff?|bmp|gif|npy|npz|txt|json|caption)$", re.IGNORECASE)
_BYTE = re.compile(r"\\x([89a-f][0-9a-f])")

#: Difference between names -> normalisation that removes it. The one that matches most names is reported, or the first
#: of several.
_FOLDS: dict[str, Callable[[str], str]] = {
    "an extension within the name": lambda name: _EXTENSION.sub("", name),
    "capital letters": str.casefold,
    "their encoding": lambda name: _BYTE.sub(lambda match: chr(int(match[1], 16)), name),
    "characters that look alike": lambda name: unicodedata.normalize("NFKC", name),
    "leading zeros": lambda name: re.sub(r"(?<!\d)0+(?=\d)", "", name),
    "a folder": lambda name: name.rpartition("/")[2],
    "capitals, spaces or punctuation": lambda name: re.sub(
        r"[\W_]+", "", unicodedata.normalize("NFKC", name).casefold()
    ),
}


def unpaired(names: Mapping[str, Collection[str]]) -> list[str]:
    """A line for each pair of sources with names that would match but for a small difference, such as "names of images
    and texts that differ in capital letters alone: 3, such as A and a"."""
    lines = []
    sources = sorted(names)
    for index, first in enumerate(sources):
        for second in sources[index + 1 :]:
            mine, theirs = (_lacking(names[a], names[b]) for a, b in ((first, second), (second, first)))
            if (near := difference(mine, theirs)) is not None:
                number, what, a, b = near
                example = f"{shown(a)} and {shown(b)}"
                what = f"names of {first} and {second} that differ in {what} alone"
                lines.append(f"{what}: {number}, such as {example}; name them alike")
    return lines


def difference(mine: Collection[str], theirs: Collection[str]) -> tuple[int, str, str, str] | None:
    """(number of names, their difference, one of `mine`, its counterpart); None if no normalisation makes any equal."""
    if not mine or not theirs:
        return None
    ends_of_mine, ends_of_theirs = _ends(mine), _ends(theirs)
    shed = {name: _shed(name, ends_of_mine) for name in mine} | {name: _shed(name, ends_of_theirs) for name in theirs}
    folds = {**_FOLDS, "a beginning or an end that all share": lambda name: shed[name]}
    best: tuple[int, str, str, str] | None = None
    for what, fold in folds.items():
        counterparts = {fold(name): name for name in sorted(theirs, reverse=True)}
        paired = [name for name in sorted(mine) if fold(name) in counterparts]
        if what == "a folder":  # two folders are no mistake
            pairs = [(name, counterparts[fold(name)]) for name in paired]
            paired = [a for a, b in pairs if a.endswith(f"/{b}") or b.endswith(f"/{a}")]
        if paired and (best is None or len(paired) > best[0]):
            best = len(paired), what, paired[0], counterparts[fold(paired[0])]
    return best


def _lacking(names: Collection[str], others: Collection[str]) -> list[str]:
    """The first of `names` that is not in `others`."""
    if isinstance(names, Names) and isinstance(others, Names) and names.table is others.table:
        return names.minus(others)[:MAX_COMPARED]
    return sorted(set(names) - set(others))[:MAX_COMPARED]


def _ends(names: Collection[str]) -> tuple[str, str]:
    """Common prefix and suffix of all names, up to a character that is not alphanumeric, such as ("", "_depth")."""
    names = list(names)
    first, last = _beginning(names), _beginning([name[::-1] for name in names])[::-1]
    if len(names) == 1:  # of a single name, up to the outermost such character
        marks = [match.start() for match in re.finditer(r"[\W_]", names[0])]
        return ("", names[0][marks[-1] :]) if marks else ("", "")
    start, end = re.match(r".*[\W_]", first, re.DOTALL), re.search(r"[\W_].*", last, re.DOTALL)
    return start[0] if start else "", end[0] if end else ""


def _beginning(names: Collection[str]) -> str:
    """The longest common prefix of all names."""
    low, high = min(names), max(names)
    return low[: next((k for k, (a, b) in enumerate(zip(low, high)) if a != b), min(len(low), len(high)))]


def _shed(name: str, ends: tuple[str, str]) -> str:
    return name.removeprefix(ends[0]).removesuffix(ends[1])

"""Notes on a data set: files that are skipped, or used in a way that the user may not expect."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from fourm_engine.data.raw.names import shown

NoteKind = Literal[
    "left out",  # files that no modality reads
    "archive",  # compressed archives
    "unlistable",  # folders that cannot be listed
    "unclear",  # members of shards that several modalities could read
    "wrapped",  # names without the folder that all of them begin with
    "duplicate",  # samples both loose and in a shard
    "misnamed",  # a folder whose name is nearly that of a modality
    "plugin",  # what the source of a package remarks
]


class Note(NamedTuple):
    """A remark of some `kind`, and the folder or shard that it concerns, as displayed."""

    kind: NoteKind
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"


class LeftOut:
    """Counts skipped files by kind, with an example of each."""

    def __init__(self) -> None:
        self._counts: dict[tuple[NoteKind, str, str], tuple[int, str]] = {}

    def add(self, what: str, example: str, remedy: str = "", *, kind: NoteKind = "left out") -> None:
        number, first = self._counts.get((kind, what, remedy), (0, example))
        self._counts[kind, what, remedy] = number + 1, first

    def __iter__(self) -> Iterator[tuple[int, str, str]]:
        """(number, example, remedy) of each kind."""
        return ((number, example, remedy) for (_, _, remedy), (number, example) in self._counts.items())

    def notes(self, where: object) -> list[Note]:
        """Messages such as "data/rgb: left out hidden files: 3, such as .a.png"."""
        notes = []
        for (kind, what, remedy), (number, example) in self._counts.items():
            text = f"left out {what}: {number}, such as {shown(example)}"
            notes.append(Note(kind, shown(where), f"{text}; {remedy}" if remedy else text))
        return notes

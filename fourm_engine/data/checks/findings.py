"""Finding: one thing about a data set that a person should know, with the names it concerns and what to do.

A "problem" is what training would end at, or lose without a word; a "note" is what may be meant."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

Level = Literal["problem", "note"]
Kind = Literal[
    "unreadable",  # a folder or shard that cannot be opened
    "damaged",  # a file that its modality refuses
    "misaligned",  # a file whose width / height is not that of the others of its sample
    "leak",  # one content in two splits
    "missing",  # samples or modalities that are named and have no file
    "misnamed",  # names of two modalities that almost match
    "extra",  # files that no modality reads
    "unread",  # folders that no modality reads
    "duplicated",  # one content, or one name, twice
    "lacking",  # samples without a modality
    "empty",  # pictures that hold one value everywhere, classes that never occur
    "truncated",  # sequences longer than the model reads
    "remark",  # files that are used although something about them is wrong
    "tokens",  # token shards that are damaged, or made of other files
    "settings",  # settings that do not fit each other or the data
]
#: Names that a finding lists; `count` goes on.
MAX_ITEMS = 10_000


class Listed:
    """The first `MAX_ITEMS` of what is added, and how many there were."""

    def __init__(self, items: Iterable[Any] = ()) -> None:
        self.items: list[Any] = []
        self.count = 0
        for item in items:
            self.add(item)

    def add(self, item: Any) -> None:
        self.count += 1
        if len(self.items) < MAX_ITEMS:
            self.items.append(item)

    def merge(self, other: Listed) -> None:
        self.count += other.count
        self.items += other.items[: MAX_ITEMS - len(self.items)]


@dataclass(frozen=True)
class Finding:
    """`listed` holds JSON-ready items: names, or objects that say more of each."""

    kind: Kind
    level: Level
    message: str
    remedy: str = ""
    #: "train" or "val", or the name of a split; "" for the whole.
    part: str = ""
    #: Modality, or the folder that several read.
    source: str = ""
    listed: Listed = field(default_factory=Listed)

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "level": self.level,
            "part": self.part,
            "source": self.source,
            "message": self.message,
            "remedy": self.remedy,
            "count": self.listed.count,
            "items": self.listed.items,
        }

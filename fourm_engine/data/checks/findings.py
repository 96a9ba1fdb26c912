"""Finding: one issue of a data set to report, with the names concerned and the remedy.

A "problem" stops training or silently loses data; a "note" may be intended."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

Level = Literal["problem", "note"]
Kind = Literal[
    "unreadable",  # a folder or shard that cannot be opened
    "damaged",  # a file that its modality rejects
    "misaligned",  # a file whose width / height differs from that of its sample's other files
    "leak",  # equal content in two splits
    "missing",  # listed samples or modalities without files
    "misnamed",  # names of two modalities that nearly match
    "extra",  # files that no modality reads
    "unread",  # folders that no modality reads
    "duplicated",  # duplicate content or names
    "lacking",  # samples without a modality
    "empty",  # constant pictures, classes that never occur
    "truncated",  # sequences longer than the model's limit
    "remark",  # files that are used despite a problem
    "tokens",  # token shards that are damaged, or made from other files
    "settings",  # settings that are inconsistent with each other or the data
]
#: Number of names that a finding lists; `count` is the total.
MAX_ITEMS = 10_000


class Listed:
    """The first `MAX_ITEMS` items added, and the total number."""

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
    """`listed` holds JSON-ready items: names, or objects with details."""

    kind: Kind
    level: Level
    message: str
    remedy: str = ""
    #: "train" or "val", or the name of a split; "" for the whole data set.
    part: str = ""
    #: Modality, or the folder if several read it.
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

"""The index of a data set, `<root>/_index/`: its samples and the members of its shards, so that starting needs no scan,
and no process holds an object per sample.

    index.json                  description of the columns, their sizes and checksums; replaced atomically, last
    members-<digest>/*.npy      the members of all shards, one per row: path, start, size, flags, header checksum
    view-<digest>/*.npy         the samples as some modalities read them; see `view_columns`

Columns are read through memory maps. A folder of columns never changes: a new index has new ones, and the old ones are
removed once `index.json` names the new.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fourm_engine.data.columns import DamagedColumn, OtherVersion, checksums, map_column, save_column, sealed, unsealed
from fourm_engine.data.raw.file_bytes import Stamp
from fourm_engine.data.raw.names import shown
from fourm_engine.data.raw.notes import Note
from fourm_engine.data.raw.sample_shards import Claim
from fourm_engine.data.raw.shard_scan import Block
from fourm_engine.data.raw.view_columns import Columns, smallest
from fourm_engine.files import check_shortage, replacing_folder, write_atomically
from fourm_engine.storage.errors import Missing, StoreError
from fourm_engine.storage.location import Readable, content_of

INDEX, FILE = "_index", "index.json"
FORMAT = 4
#: Maximum size of `index.json`: a few hundred thousand shards.
MAX_BYTES = 1 << 28
#: Maximum number of views; older ones are removed.
MAX_VIEWS = 8
#: A file that changes again within the resolution of the file system's clock keeps its time, so a time more recent than
#: this proves nothing (ns).
RECENT = 2_000_000_000
_MEMBERS = {"offsets": "u", "paths": "u", "starts": "u", "sizes": "u", "flags": "u", "headers": "u"}
_VIEW = {"starts": "u", "files": "iu", "extensions": "u", "offsets": "u", "blob": "u", "hashes": "u", "order": "u"}


class Damaged(ValueError):
    """The index cannot be used; the message says why."""


def settled(time_ns: int) -> bool:
    """Whether a time is old enough to prove that nothing has changed since."""
    return time.time_ns() - time_ns > RECENT


class ShardRows(NamedTuple):
    """A shard, and the rows of its members in the columns."""

    stamp: Stamp
    settled: bool
    first: int
    rows: int


@dataclass(frozen=True)
class Stored:
    """A folder of columns: {column: [entries, checksums]}."""

    folder: str
    columns: dict[str, tuple[int, list[int]]]

    @classmethod
    def save(cls, at: Path, kind: str, columns: Columns) -> Stored:
        """Write `at/<kind>-<digest>/`, unless it exists."""
        sums = {name: (len(column), checksums(column)) for name, column in sorted(columns.items())}
        kinds = {name: str(column.dtype) for name, column in columns.items()}
        digest = hashlib.blake2b(json.dumps([sums, kinds], sort_keys=True).encode(), digest_size=8).hexdigest()
        stored = cls(f"{kind}-{digest}", sums)
        try:
            stored.check(at)
        except Damaged:
            with replacing_folder(at / stored.folder) as folder:
                for name, column in columns.items():
                    save_column(folder / f"{name}.npy", column)
        return stored

    @classmethod
    def read(cls, document: Any, kind: str) -> Stored:
        folder, columns = document["folder"], document["columns"]
        if not isinstance(folder, str) or not folder.startswith(f"{kind}-") or not folder[len(kind) + 1 :].isalnum():
            raise ValueError(f"{folder!r:.40} is not a folder of columns")
        return cls(folder, {str(name): (int(n), list(map(int, sums))) for name, (n, sums) in columns.items()})

    def open(self, at: Readable) -> Columns:
        """Raises Damaged."""
        kinds = _MEMBERS | _VIEW
        try:
            columns = {}
            for name, (entries, checks) in self.columns.items():
                kind = kinds[name.rpartition(".")[2]]
                columns[name] = map_column(at / self.folder / f"{name}.npy", kind, entries, checks)
            return columns
        except StoreError:
            raise
        except (KeyError, ValueError) as error:
            raise Damaged(f"{self.folder}: {error}") from None

    def check(self, at: Readable) -> None:
        """Verify all checksums. Raises Damaged."""
        try:
            for column in self.open(at).values():
                np.asarray(column)
        except DamagedColumn as damage:
            raise Damaged(str(damage).partition("; ")[0]) from None


@dataclass(frozen=True)
class View:
    """The samples as `claims` read them."""

    claims: list[Claim]
    #: The shards of the root that were chosen; None: all.
    only: list[str] | None
    #: Claim -> sub-folder -> its time, or -1 if that proves nothing; None: the claim has no folder.
    folders: list[dict[str, int] | None]
    #: Claim -> digest of its folder's listing.
    listed: list[str]
    #: The shards that are read.
    shards: list[str]
    #: Claim -> notes on skipped files; the last entry is for the root.
    notes: list[list[Note]]
    by_extension: bool
    stored: Stored

    @classmethod
    def read(cls, document: Any) -> View:
        claims = [Claim(str(s), tuple(map(str, e)), tuple(map(str, names))) for s, e, names in document["claims"]]
        notes = [[Note(*note) for note in of_claim] for of_claim in document["notes"]]
        stored = Stored.read(document["stored"], "view")
        return cls(**{**document, "claims": claims, "notes": notes, "stored": stored})

    def document(self) -> dict[str, Any]:
        return {**vars(self), "stored": vars(self.stored)}

    def serves(self, claims: list[Claim], only: list[str] | None) -> bool:
        """Whether these claims would read the same."""
        keys = {claim.key for claim in self.claims}
        same = claims == self.claims or (not self.by_extension and keys.issuperset(claim.key for claim in claims))
        return same and self.only == only


@dataclass
class DataIndex:
    """The index of `root`, in memory."""

    root: Readable
    #: By path below the root.
    shards: dict[str, ShardRows] = field(default_factory=dict)
    #: Row -> [reason, parts]; see `Block`.
    odd: dict[int, list[Any]] = field(default_factory=dict)
    views: list[View] = field(default_factory=list)
    members: Stored | None = None
    #: The root's name in notes.
    called: str = ""
    _columns: Columns | None = None

    @classmethod
    def read(cls, root: Readable) -> DataIndex | None:
        """Read the index; None if there is none. Raises Damaged, and OtherVersion."""
        path = root / INDEX / FILE
        try:
            document = unsealed(content_of(path, MAX_BYTES), FORMAT)
            shards = {
                _inside(name): ShardRows((int(size), int(mtime)), bool(settled), int(first), int(rows))
                for name, size, mtime, settled, first, rows in document["shards"]
            }
            odd = {int(row): [str(reason), parts] for row, (reason, parts) in document["odd"].items()}
            views = [View.read(view) for view in document["views"]]
            members = Stored.read(document["members"], "members")
            return cls(root, shards, odd, views, members, str(document["root"]))
        except (FileNotFoundError, Missing):
            return None
        except (OtherVersion, StoreError):
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            check_shortage(error)
            raise Damaged(f"{FILE}: {error!s:.100}") from None

    def columns(self) -> Columns:
        """The columns of the members. Raises Damaged."""
        if self._columns is None:
            assert self.members is not None
            columns = self.members.open(self.root / INDEX)
            rows = sum(shard.rows for shard in self.shards.values())
            if set(columns) != set(_MEMBERS) or len(columns["offsets"]) != rows + 1:
                raise Damaged("members: not those of its shards")
            if any(len(columns[name]) != rows for name in _MEMBERS.keys() - {"offsets", "paths"}):
                raise Damaged("members: columns of different lengths")
            self._columns = columns
        return self._columns

    def block(self, shard: str) -> Block:
        """Raises Damaged."""
        stamp, _, first, number = self.shards[shard]
        columns, rows = self.columns(), slice(first, first + number)
        offsets = columns["offsets"][first : first + number + 1].astype(np.int64)
        return Block(
            stamp,
            offsets - offsets[0],
            columns["paths"][int(offsets[0]) : int(offsets[-1])],
            columns["starts"][rows].astype(np.int64),
            columns["sizes"][rows].astype(np.int64),
            columns["flags"][rows],
            columns["headers"][rows],
            {row - first: what for row, what in self.odd.items() if first <= row < first + number},
        )

    def view(self, claims: list[Claim], only: list[str] | None) -> View | None:
        """The newest view for these claims, or None."""
        return next((view for view in reversed(self.views) if view.serves(claims, only)), None)

    def save(self) -> None:
        """Replace `index.json`, and remove columns that it does not name. Raises CannotWrite."""
        assert isinstance(self.root, Path)
        at = self.root / INDEX
        assert self.members is not None
        document = {
            "format": FORMAT,
            "root": self.called,
            "members": vars(self.members),
            "shards": [[name, *s.stamp, s.settled, s.first, s.rows] for name, s in self.shards.items()],
            "odd": {str(row): what for row, what in self.odd.items()},
            "views": [view.document() for view in self.views],
        }
        write_atomically(at / FILE, sealed(document))
        self.clean()

    def unused(self) -> list[Path]:
        """Files in the index's folder that are not this index's: an earlier one's, or those of a running process."""
        assert isinstance(self.root, Path)
        assert self.members is not None
        used = {FILE, self.members.folder, *(view.stored.folder for view in self.views)}
        return [path for path in (self.root / INDEX).iterdir() if path.name not in used]

    def clean(self) -> None:
        """Remove columns that the index does not name."""
        for path in self.unused():
            if path.is_dir() and path.name.startswith(("members-", "view-")):
                shutil.rmtree(path, ignore_errors=True)


def member_columns(blocks: Iterable[Block]) -> tuple[Columns, dict[int, list[Any]]]:
    """The columns of the members of shards, one after another, and their `odd` rows."""
    blocks = list(blocks)
    ends = np.cumsum([0, *(len(block.flags) for block in blocks)])
    shift = np.cumsum([0, *(len(block.paths) for block in blocks)])
    offsets = np.concatenate([[0], *(block.offsets[1:] + at for block, at in zip(blocks, shift))])
    columns: Columns = {"offsets": smallest(offsets.astype(np.int64))}
    for name, kind in (("paths", np.uint8), ("starts", np.int64), ("sizes", np.int64)):
        columns[name] = smallest(np.concatenate([np.zeros(0, kind), *(getattr(block, name) for block in blocks)]))
    for name, kind in (("flags", np.uint8), ("headers", np.uint32)):
        columns[name] = np.concatenate([np.zeros(0, kind), *(getattr(block, name) for block in blocks)])
    odd = {int(end) + row: what for block, end in zip(blocks, ends) for row, what in block.odd.items()}
    return columns, odd


def _inside(shard: Any) -> str:
    """The path, if it is below the root. Raises ValueError otherwise."""
    if not isinstance(shard, str) or shard.startswith("/") or ".." in shard.split("/"):
        raise ValueError(f"{shown(shard)!r} is not a path below the data")
    return shard

"""Token shards: the ids of one modality for the samples of a shard of views, in the same order.

    ids: int32 (samples * views, tokens), padded with -1; view v of row r is row r * views + v
    digest: uint64 (samples,) of the ids of each; 0 for a sample without this modality
    stamp, content, view: uint64 (samples,); see `Made`

Metadata: the modality's identity and alignment group, the fingerprint of the tokenizer, the number of views, and a
digest of the samples' names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from fourm_engine.data.tokens.shards import ShardFile, damaged, digest, names_digest, save_shard, shard_path, unusable
from fourm_engine.identity import check_identity
from fourm_engine.identity import digest as identity_digest
from fourm_engine.storage.location import Readable
from fourm_plugins.counting import counted
from fourm_plugins.modality import Modality
from fourm_plugins.tokenizer import Tokenizer


@dataclass(frozen=True)
class Made:
    """Digests of what the tokens of one sample were made from."""

    #: Sizes and times of its files.
    stamp: int
    #: Their bytes.
    content: int
    #: The views of its group; 0 for a modality that is seen whole.
    view: int


#: Number of digits of a fingerprint in messages.
_SHOWN = 20


@dataclass(frozen=True)
class Making:
    """How the tokens of a shard were made: equal for all consistent shards of a modality."""

    fingerprint: str
    views: int
    alignment: str
    #: JSON of `Modality.identity`, and its digest.
    identity: str
    digest: str

    @classmethod
    def read(cls, file: ShardFile) -> Making:
        """Raises ValueError."""
        try:
            metadata = file.metadata
            written: dict[str, Any] = {field.name: metadata[field.name] for field in fields(cls)}
            made = cls(**written | {"views": int(written["views"])})
            if made.views < 1:
                raise ValueError("no views")
        except (KeyError, ValueError) as error:
            raise damaged(file.path, error) from None
        return made

    def check(self, modality: Modality, path: Readable, tokenizer: Tokenizer | None = None) -> None:
        """Raise ValueError if `modality` has other settings now, naming the first that differs, or if another tokenizer
        than `tokenizer` made the tokens."""
        remedy = f"remove {path.parent} and run `fourm tokenize` again"
        if self.alignment != (modality.spec.alignment or ""):
            raise ValueError(
                f"{path}: made in alignment group {self.alignment or None!r}, but {modality.name} is in "
                f"{modality.spec.alignment!r}; install the plugin's earlier release, or {remedy}"
            )
        if self.digest != identity_digest(modality.identity()):
            try:
                identity = json.loads(self.identity)
                if not isinstance(identity, dict):
                    raise ValueError("the identity of its modality is not an object")
            except (ValueError, RecursionError) as error:
                raise damaged(path, error) from None
            check_identity(identity, modality, where=str(path), remedy=remedy)
        if tokenizer is not None and self.fingerprint != tokenizer.fingerprint:
            was, now = self.fingerprint[:_SHOWN], tokenizer.fingerprint[:_SHOWN]
            what = f"made by tokenizer {was}, but the tokenizer of {modality.name} is {now}"
            raise ValueError(f"{path}: {what}; {remedy}, or use the tokenizer it was made by")


class TokenShard(ShardFile):
    """The tokens of one modality and shard, whose samples are `rows`, by name; see `names_digest`.

    Raises ValueError if the file contains other samples."""

    def __init__(self, path: Path, samples: int, rows: int) -> None:
        super().__init__(path)
        self.samples, self.making = samples, Making.read(self)
        if self.metadata.get("rows") != f"{rows:016x}":
            raise unusable(path, "holds other samples than the shard of views of this number")

    def numbers(self, key: str) -> np.ndarray:
        """A column of uint64 (samples,)."""
        return self.column(key, self.samples)

    def ids(self) -> np.ndarray:
        """int32 (samples, views, tokens), padded with -1."""
        table = self.column("ids", self.samples * self.making.views, -1, dtype=np.int32)
        return table.reshape(self.samples, self.making.views, table.shape[1])

    def damaged_rows(self) -> np.ndarray:
        """int64: rows whose ids differ from those that were written."""
        digests, ids = self.numbers("digest").tolist(), self.ids()
        return np.flatnonzero([row_digest(row) != known for row, known in zip(ids, digests) if known])


def row_digest(ids: Sequence[np.ndarray]) -> int:
    """Digest of the ids of each view, independent of padding; never 0."""
    return digest("ids", *(view[view >= 0].astype("<i4").tobytes() for view in ids))


class TokenShardWriter:
    """Writes the shards of one modality, and finds rows that must be rewritten.

    known: how existing shards were made -> one of them. Raises ValueError if one was made with other settings, by
    another tokenizer, or with another number of views."""

    def __init__(
        self,
        folder: Path,
        modality: Modality,
        tokenizer: Tokenizer,
        views: int,
        known: Mapping[Making, Readable] | None = None,
    ) -> None:
        self.folder, self.spec = Path(folder) / modality.name, modality.spec
        self.fingerprint, self.views = tokenizer.fingerprint, views
        self._identity = modality.identity()
        for made, path in (known or {}).items():
            made.check(modality, path, tokenizer)
            if made.views != views:
                raise ValueError(f"{path}: {counted(made.views, 'view')} a sample, not {views}; remove {self.folder}")

    def exists(self, number: int) -> bool:
        return shard_path(self.folder, number).is_file()

    def made(self, number: int, names: Sequence[str], *, verify: bool = False) -> dict[str, Made]:
        """The samples of a shard that have tokens, with how they were made; empty if there is no such shard. verify:
        exclude those whose ids are damaged."""
        if not self.exists(number):
            return {}
        shard = self._open(number, names)
        bad = frozenset(shard.damaged_rows().tolist()) if verify else frozenset[int]()
        columns = (shard.numbers(key).tolist() for key in ("digest", "stamp", "content", "view"))
        rows = enumerate(zip(names, *columns))
        return {name: Made(*made) for row, (name, there, *made) in rows if there and row not in bad}

    def ids(self, number: int, names: Sequence[str]) -> dict[str, list[np.ndarray]]:
        """Sample -> int32 (tokens,) of each view."""
        if not self.exists(number):
            return {}
        shard = self._open(number, names)
        rows = zip(names, shard.numbers("digest").tolist(), shard.ids())
        return {name: [view[view >= 0] for view in ids] for name, there, ids in rows if there}

    def _open(self, number: int, names: Sequence[str]) -> TokenShard:
        shard = TokenShard(shard_path(self.folder, number), len(names), names_digest(names))
        if shard.making.views != self.views:
            raise damaged(shard.path, "views")
        return shard

    def write(self, number: int, names: Sequence[str], rows: Mapping[str, tuple[Made, Sequence[np.ndarray]]]) -> None:
        """names: all samples of the shard. rows: sample -> what it was made from, and the ids (tokens,) of each view,
        checked by `fourm_plugins.calls.encode`. Raises CannotWrite."""
        length = max((len(ids) for _, views in rows.values() for ids in views), default=0)
        table = np.full((len(names), self.views, length), -1, np.int32)
        columns = {key: np.zeros(len(names), np.uint64) for key in ("digest", "stamp", "content", "view")}
        at = {name: row for row, name in enumerate(names)}
        for name, (made, views) in rows.items():
            row = at[name]
            for filled, ids in zip(table[row], views, strict=True):
                filled[: len(ids)] = ids
            columns["digest"][row] = row_digest(views)
            columns["stamp"][row], columns["content"][row], columns["view"][row] = made.stamp, made.content, made.view
        metadata = {
            "modality": self.spec.name,
            "fingerprint": self.fingerprint,
            "views": str(self.views),
            "alignment": self.spec.alignment or "",
            "identity": json.dumps(self._identity, sort_keys=True),
            "digest": identity_digest(self._identity),
            "rows": f"{names_digest(names):016x}",
        }
        save_shard(
            shard_path(self.folder, number),
            {"ids": table.reshape(len(names) * self.views, length), **columns},
            metadata,
        )

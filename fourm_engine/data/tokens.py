"""Token shards: the ids of one modality for many samples.

    ids: int32 (samples * views, tokens), padded with -1; view v of sample s is row s * views + v
    stamp, content, view: uint64 (samples,); see `Made`

Metadata: the modality's identity and the fingerprint of the tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fourm_engine.data.shards import (
    Shards,
    column_of,
    damaged,
    names_of,
    open_shard,
    read_metadata,
    save_shard,
    shard_path,
    shard_paths,
    some_shard_paths,
)
from fourm_engine.identity import check_identity
from fourm_engine.identity import digest as identity_digest
from fourm_plugins.modality import Modality


@dataclass(frozen=True)
class Made:
    """What the tokens of one sample were made from, as digests."""

    #: Sizes and times of its files.
    stamp: int
    #: Their bytes.
    content: int
    #: The views of its group; 0 for a modality that is seen whole.
    view: int


class TokenShards(Shards):
    """The tokens of one modality. `size`: ids are below it; others would be tokens of another modality.

    Raises ValueError for shards of several tokenizers, and for ids and rows that cannot be."""

    def __init__(self, folder: Path, *, size: int = 1 << 31) -> None:
        super().__init__(some_shard_paths(folder))
        self.size = size
        fingerprints = {metadata["fingerprint"] for metadata in self.metadata}
        if len(fingerprints) > 1:
            raise ValueError(
                f"{folder}: shards of several tokenizers, {', '.join(sorted(fingerprints))}; tokenize again"
            )
        self.fingerprint = fingerprints.pop()

    def ids(self, name: str, view: int = 0) -> np.ndarray:
        """int64 (tokens,) of a sample in `names`."""
        shard, row = self._rows[name]
        ids = self._slice(shard, "ids", row * self.views + view)
        if ids.ndim != 1 or ids.dtype != np.int32 or ids.max(initial=-1) >= self.size:
            raise ValueError(
                f"{self.paths[shard]}: sample {name!r} holds no ids below {self.size}; remove the file and run "
                f"`fourm tokenize` again"
            )
        return ids[ids >= 0].astype(np.int64)


class TokenShardWriter:
    """Writes the shards of one modality, and reads what is to be written again.

    Raises ValueError where a shard was made with other settings, by another tokenizer, or with another number of
    views."""

    def __init__(self, folder: Path, modality: Modality, fingerprint: str, views: int) -> None:
        self.folder, self.spec = Path(folder) / modality.name, modality.spec
        self.fingerprint, self.views = fingerprint, views
        self._identity = modality.identity()
        shards = {path: read_metadata(path) for path in shard_paths(self.folder)}
        check_made_with(modality, shards)
        for path, metadata in shards.items():
            if (found := metadata.get("fingerprint")) != fingerprint:
                raise ValueError(
                    f"{path}: made by tokenizer {found}, but the tokenizer of {modality.name} is {fingerprint}; remove "
                    f"{self.folder} to tokenize again, or use the tokenizer it was made by"
                )
            if metadata.get("views") != str(views):
                raise ValueError(f"{path}: {metadata.get('views')} views a sample, not {views}; remove {self.folder}")

    def exists(self, index: int) -> bool:
        return shard_path(self.folder, index).is_file()

    def made(self, index: int) -> dict[str, Made]:
        """The samples of a shard, in order; none where there is no such shard."""
        if not self.exists(index):
            return {}
        path = shard_path(self.folder, index)
        file = open_shard(path)
        names = names_of(path, file.metadata())
        columns = (column_of(path, file, key, len(names)) for key in ("stamp", "content", "view"))
        return {name: Made(*row) for name, *row in zip(names, *(column.tolist() for column in columns))}

    def ids(self, index: int) -> dict[str, list[np.ndarray]]:
        """Sample -> int32 (tokens,) of each view, of a shard."""
        if not self.exists(index):
            return {}
        path = shard_path(self.folder, index)
        file = open_shard(path)
        names, ids = names_of(path, file.metadata()), file.get_tensor("ids")
        if ids.ndim != 2 or ids.dtype != np.int32 or len(ids) != len(names) * self.views:
            raise ValueError(f"{path}: damaged; remove it and run `fourm tokenize` again")
        rows = [row[row >= 0] for row in ids]
        return {name: rows[i * self.views : (i + 1) * self.views] for i, name in enumerate(names)}

    def write(self, index: int, rows: Mapping[str, tuple[Made, Sequence[np.ndarray]]]) -> None:
        """rows: sample -> what it was made from, and the ids (tokens,) of each view.

        Raises ValueError for ids that do not fit the spec."""
        assert self.spec.token_space is not None
        flat = [ids for _, row in rows.values() for ids in row]
        assert len(flat) == len(rows) * self.views
        length = max((len(ids) for ids in flat), default=0)
        table = np.full((len(flat), length), -1, np.int32)
        for row, ids in zip(table, flat):
            if len(ids) and not 0 <= ids.min() <= ids.max() < self.spec.token_space.size:
                raise ValueError(
                    f"{self.spec.name}: the tokenizer gave ids {ids.min()} to {ids.max()}, outside its space of "
                    f"{self.spec.token_space.size}"
                )
            if self.spec.layout.kind != "sequence" and len(ids) != self.spec.layout.num_tokens:
                raise ValueError(
                    f"{self.spec.name}: {len(ids)} tokens, not the {self.spec.layout.num_tokens} of its layout"
                )
            row[: len(ids)] = ids
        made = [made for made, _ in rows.values()]
        columns = {
            key: np.array([getattr(m, key) for m in made], np.uint64).reshape(len(made))
            for key in ("stamp", "content", "view")
        }
        metadata = {
            "modality": self.spec.name,
            "fingerprint": self.fingerprint,
            "identity": json.dumps(self._identity, sort_keys=True),
            "digest": identity_digest(self._identity),
            "names": json.dumps(list(rows)),
            "views": str(self.views),
        }
        save_shard(shard_path(self.folder, index), {"ids": table, **columns}, metadata)


def check_made_with(modality: Modality, metadata: Mapping[Path, Mapping[str, str]]) -> None:
    """Raise ValueError where shards were made with other settings of their modality, naming the first that differs."""
    current = identity_digest(modality.identity())
    for path, shard in metadata.items():
        if shard.get("digest") == current:
            continue
        try:
            identity = json.loads(shard["identity"])
            if not isinstance(identity, dict):
                raise ValueError("the identity of its modality is none")
        except (KeyError, ValueError, RecursionError) as error:
            raise damaged(path, error) from None
        check_identity(identity, modality, where=path, remedy=f"remove {path.parent} and run `fourm tokenize` again")

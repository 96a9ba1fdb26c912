"""Token shards: the ids of one modality for many samples, and the views they were made through, in safetensors.

    <folder>/_views/shard-00000.safetensors       views.<group>: float64 (samples, views, 6), rows of `View.to_row`
                                                  digest.<group>: uint64 (samples,) of these rows
                                                  stamp: uint64 (samples,) of the files that have views but no tokens
    <folder>/<modality>/shard-00000.safetensors   ids: int32 (samples * views, tokens), padded with -1; view v of
                                                  sample s is row s * views + v
                                                  stamp, content, view: uint64 (samples,); see `Made`
Metadata: the names of the samples, the modality's identity and the tokenizer's fingerprint. Which samples a shard holds
is settled once, by its views: new ones go into new shards. Files appear under their name only when whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from fourm_engine.data.views import SampleViews
from fourm_engine.files import write_atomically
from fourm_engine.identity import check_identity
from fourm_engine.identity import digest as identity_digest
from fourm_plugins.modality import Modality
from fourm_plugins.view import View

VIEWS_FOLDER = "_views"
_FORMAT = "2"


def shard_path(folder: Path, index: int) -> Path:
    return Path(folder) / f"shard-{index:05d}.safetensors"


def shard_paths(folder: Path) -> list[Path]:
    return sorted(Path(folder).glob("shard-*.safetensors"))


def read_metadata(path: Path) -> dict[str, str]:
    """Raises ValueError for a file that is no shard of this format."""
    return _open(path).metadata()


def read_names(path: Path) -> list[str]:
    """The samples of a shard. Raises ValueError."""
    return _names(path, read_metadata(path))


def _open(path: Path) -> Any:
    try:
        file = safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path}: damaged or no token shard ({error}); remove it and run `fourm tokenize` again"
        ) from None
    if (file.metadata() or {}).get("format") != _FORMAT:
        raise ValueError(f"{path}: no token shard of format {_FORMAT}; remove it and run `fourm tokenize` again")
    return file


def _save(path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    # Not `save_file`, which writes through a temporary file of its own: a kill would leave that one behind, and its
    # permissions keep everybody else from reading the shard.
    content = save(tensors, {"format": _FORMAT, **metadata})
    write_atomically(path, content)


def digest(*parts: bytes | str) -> int:
    """64 bits that tell one content from another; 0 is that of nothing."""
    if not any(parts):
        return 0
    total = hashlib.blake2b(digest_size=8)
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        total.update(len(content).to_bytes(8, "little") + content)
    return int.from_bytes(total.digest(), "little")


@dataclass(frozen=True)
class Made:
    """What the tokens of one sample were made from, as digests."""

    #: Sizes and times of its files.
    stamp: int
    #: Their bytes.
    content: int
    #: The views of its group; 0 for a modality that is seen whole.
    view: int


class TokenShardWriter:
    """Reads and writes the shards of one modality.

    Raises ValueError where a shard is found that was made with other settings, by another tokenizer, or with another
    number of views."""

    def __init__(self, folder: Path, modality: Modality, fingerprint: str, views: int) -> None:
        self.folder, self.spec = Path(folder) / modality.name, modality.spec
        self.fingerprint, self.views = fingerprint, views
        self._identity = modality.identity()
        paths = shard_paths(self.folder)
        check_made_with(modality, {path: read_metadata(path) for path in paths})
        for path in paths:
            metadata = read_metadata(path)
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
        file = _open(path)
        names = _names(path, file.metadata())
        columns = (_column(path, file, key, len(names)) for key in ("stamp", "content", "view"))
        return {name: Made(*row) for name, *row in zip(names, *(column.tolist() for column in columns))}

    def ids(self, index: int) -> dict[str, list[np.ndarray]]:
        """Sample -> int32 (tokens,) of each view, of a shard."""
        if not self.exists(index):
            return {}
        path = shard_path(self.folder, index)
        file = _open(path)
        names, ids = _names(path, file.metadata()), file.get_tensor("ids")
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
        _save(shard_path(self.folder, index), {"ids": table, **columns}, metadata)


def check_made_with(modality: Modality, metadata: Mapping[Path, Mapping[str, str]]) -> None:
    """Raise ValueError where shards were made with other settings of their modality, naming the first that differs."""
    own = identity_digest(modality.identity())
    for path, found in metadata.items():
        if found.get("digest") == own:
            continue
        try:
            identity = json.loads(found["identity"])
            if not isinstance(identity, dict):
                raise ValueError("the identity of its modality is none")
        except (KeyError, ValueError, RecursionError) as error:
            raise ValueError(f"{path}: damaged ({error!r:.80}); remove it and run `fourm tokenize` again") from None
        check_identity(identity, modality, where=path, remedy=f"remove {path.parent} and run `fourm tokenize` again")


class _Shards:
    """Shards of a folder, opened when first needed in each process."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        self.metadata = [read_metadata(path) for path in self.paths]
        #: The samples of each shard, in order.
        self.shards = [_names(path, metadata) for path, metadata in zip(self.paths, self.metadata)]
        self._place: dict[str, tuple[int, int]] = {}  # name -> (shard, index in it)
        for shard, path in enumerate(self.paths):
            for row, name in enumerate(self.shards[shard]):
                first = self._place.setdefault(name, (shard, row))
                if first != (shard, row):
                    raise ValueError(
                        f"sample {name!r} is in both {self.paths[first[0]]} and {path}; remove the second and run "
                        f"`fourm tokenize` again"
                    )
        views = {int(metadata["views"]) for metadata in self.metadata}
        if len(views) > 1:
            raise ValueError(f"{self.paths[0].parent}: shards with different numbers of views, {sorted(views)}")
        self.views: int = views.pop() if views else 0
        self.names = list(self._place)
        self._files: dict[int, Any] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._place

    def _slice(self, shard: int, key: str, row: int) -> np.ndarray:
        try:
            return self._file(shard).get_slice(key)[row : row + 1][0]
        except (SafetensorError, IndexError) as error:
            raise ValueError(
                f"{self.paths[shard]}: lacks row {row} of {key!r} ({error}); remove it and run `fourm tokenize` again"
            ) from None

    def _file(self, shard: int) -> Any:
        if shard not in self._files:
            self._files[shard] = _open(self.paths[shard])
        return self._files[shard]

    def digests(self, key: str) -> dict[str, int]:
        """Sample -> the entry of a column."""
        found: dict[str, int] = {}
        for shard, names in enumerate(self.shards):
            found |= zip(names, _column(self.paths[shard], self._file(shard), key, len(names)).tolist())
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}}


def _names(path: Path, metadata: Mapping[str, str]) -> list[str]:
    """The samples of a shard; what else its metadata must say is there, too. Raises ValueError."""
    try:
        names = json.loads(metadata["names"])
        if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise ValueError("names are no list of names")
        if int(metadata["views"]) < 1:
            raise ValueError("no views")
    except (KeyError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: damaged ({error!r:.80}); remove it and run `fourm tokenize` again") from None
    return names


def _column(path: Path, file: Any, key: str, samples: int) -> np.ndarray:
    """uint64 (samples,). Raises ValueError where the shard has no such column."""
    try:
        column = file.get_tensor(key)
    except SafetensorError:
        column = np.zeros(0)
    if column.dtype != np.uint64 or column.shape != (samples,):
        raise ValueError(
            f"{path}: holds no column {key!r} of {samples} samples; remove it and run `fourm tokenize` again"
        )
    return column


def _there(folder: Path) -> list[Path]:
    if not (paths := shard_paths(folder)):
        raise ValueError(f"{folder}: holds no shard-*.safetensors; run `fourm tokenize`")
    return paths


class TokenShards(_Shards):
    """Reads the tokens of one modality. `size`: its ids are below it; others would be tokens of another modality.

    ValueError for shards of several tokenizers, and for ids and rows that cannot be."""

    def __init__(self, folder: Path, *, size: int = 1 << 31) -> None:
        super().__init__(_there(folder))
        self.size = size
        fingerprints = {metadata["fingerprint"] for metadata in self.metadata}
        if len(fingerprints) > 1:
            raise ValueError(
                f"{folder}: shards of several tokenizers, {', '.join(sorted(fingerprints))}; tokenize again"
            )
        self.fingerprint = fingerprints.pop()

    def ids(self, name: str, view: int = 0) -> np.ndarray:
        """int64 (tokens,) of a sample in `names`."""
        shard, row = self._place[name]
        ids = self._slice(shard, "ids", row * self.views + view)
        if ids.ndim != 1 or ids.dtype != np.int32 or ids.max(initial=-1) >= self.size:
            raise ValueError(
                f"{self.paths[shard]}: sample {name!r} holds no ids below {self.size}; remove the file and run "
                f"`fourm tokenize` again"
            )
        return ids[ids >= 0].astype(np.int64)


class RecordedViews(_Shards):
    """Reads the views that the tokens of `folder` were made through; of one shard, where `index` is given."""

    def __init__(self, folder: Path, index: int | None = None) -> None:
        folder = Path(folder) / VIEWS_FOLDER
        super().__init__(_there(folder) if index is None else [shard_path(folder, index)])
        #: Alignment groups that every shard has views of.
        self.groups: list[str] = sorted(set.intersection(*map(set, map(_groups, self.paths, self.metadata))))

    def get(self, name: str, number: int) -> SampleViews:
        shard, row = self._place[name]
        return {group: View.from_row(self._slice(shard, f"views.{group}", row)[number]) for group in self.groups}

    def digest(self, groups: Iterable[str], names: Sequence[str]) -> str:
        """Says through which views of these samples tokens were made; the same for the same ones."""
        total = hashlib.sha256()
        for group in sorted(groups):
            found = self.digests(f"digest.{group}")
            total.update(json.dumps([group, [(name, found[name]) for name in names]]).encode())
        return total.hexdigest()[:16]


def _groups(path: Path, metadata: Mapping[str, str]) -> list[str]:
    try:
        groups = json.loads(metadata["groups"])
        if not (isinstance(groups, list) and all(isinstance(group, str) for group in groups)):
            raise ValueError("groups are no list of names")
    except (KeyError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: damaged ({error!r:.80}); remove it and run `fourm tokenize` again") from None
    return groups


def write_views(
    folder: Path,
    index: int,
    rows: Mapping[str, Sequence[SampleViews]],
    stamps: Sequence[int],
    *,
    groups: Sequence[str],
    settings: dict,
    views: int,
) -> None:
    """rows: for each sample its views, each with all `groups`. stamps: of its files that have no tokens."""
    tensors: dict[str, np.ndarray] = {"stamp": np.array(stamps, np.uint64)}
    for group in groups:
        table = np.array([[view[group].to_row() for view in sample] for sample in rows.values()], np.float64)
        tensors[f"views.{group}"] = table = table.reshape(len(rows), views, 6)
        tensors[f"digest.{group}"] = np.array([digest(row.tobytes()) for row in table], np.uint64)
    metadata = {
        "names": json.dumps(list(rows)),
        "views": str(views),
        "settings": json.dumps(settings),
        "groups": json.dumps(list(groups)),
    }
    _save(shard_path(Path(folder) / VIEWS_FOLDER, index), tensors, metadata)

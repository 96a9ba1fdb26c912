"""Token shards: the ids of one modality for many samples, and the views they were made through, in safetensors.

    <folder>/_views/shard-00000.safetensors       <group>: float64 (samples, views, 6), rows of `View.to_row`
    <folder>/<modality>/shard-00000.safetensors   ids: int32 (samples * views, tokens), padded with -1; view v of sample
    s
                                                  is row s * views + v
Metadata: the tokenizer's fingerprint, the names of the samples, and the digest of the views, so that no two of them can
be mixed up. Files appear under their name only when whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from fourm_engine.data.views import SampleViews
from fourm_engine.files import write_atomically
from fourm_plugins.spec import ModalitySpec
from fourm_plugins.view import View

VIEWS_FOLDER = "_views"
_FORMAT = "1"


def shard_path(folder: Path, index: int) -> Path:
    return Path(folder) / f"shard-{index:05d}.safetensors"


def shard_paths(folder: Path) -> list[Path]:
    return sorted(Path(folder).glob("shard-*.safetensors"))


def read_metadata(path: Path) -> dict[str, str]:
    """Raises ValueError for a file that is no shard of this format."""
    return _open(path).metadata()


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


class TokenShardWriter:
    """Writes shards of one modality, and tells which are finished.

    Raises ValueError where a shard of another tokenizer is found."""

    def __init__(self, folder: Path, spec: ModalitySpec, fingerprint: str, views: int) -> None:
        self.folder, self.spec, self.fingerprint, self.views = Path(folder) / spec.name, spec, fingerprint, views
        for path in shard_paths(self.folder):
            found = read_metadata(path)["fingerprint"]
            if found != fingerprint:
                raise ValueError(
                    f"{path}: made by tokenizer {found}, but the tokenizer of {spec.name} is {fingerprint}; remove "
                    f"{self.folder} to tokenize again, or use the tokenizer it was made by"
                )

    def finished(self, index: int, views_digest: str) -> dict[str, str] | None:
        """Metadata of a shard made through these very views; None where it is still to be made."""
        path = shard_path(self.folder, index)
        metadata = read_metadata(path) if path.is_file() else {}
        return metadata if metadata.get("views_digest") == views_digest else None

    def write(
        self,
        index: int,
        rows: Mapping[str, Sequence[np.ndarray]],
        views_digest: str,
        bad: Sequence[tuple[str, str]] = (),
    ) -> dict[str, str]:
        """rows: sample -> ids (tokens,) of each view. bad: (where, reason) of files left out. Returns the metadata.

        Raises ValueError for ids that do not fit the spec."""
        assert self.spec.token_space is not None
        flat = [ids for views in rows.values() for ids in views]
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
        metadata = {
            "modality": self.spec.name,
            "fingerprint": self.fingerprint,
            "names": json.dumps(list(rows)),
            "views": str(self.views),
            "views_digest": views_digest,
            "bad": json.dumps(list(bad)),
        }
        _save(shard_path(self.folder, index), {"ids": table}, metadata)
        return metadata


class _Shards:
    """Shards of a folder, opened when first needed in each process."""

    def __init__(self, folder: Path, index: int | None = None) -> None:
        self.paths = shard_paths(folder) if index is None else [shard_path(folder, index)]
        if not self.paths:
            raise ValueError(f"{folder}: holds no shard-*.safetensors; run `fourm tokenize`")
        self.metadata = [read_metadata(path) for path in self.paths]
        self._place: dict[str, tuple[int, int]] = {}  # name -> (shard, index in it)
        for shard, path in enumerate(self.paths):
            for row, name in enumerate(_names(path, self.metadata[shard])):
                first = self._place.setdefault(name, (shard, row))[0]
                if first != shard:
                    raise ValueError(
                        f"sample {name!r} is in both {self.paths[first]} and {self.paths[shard]}; tokenize again"
                    )
        views = {int(metadata["views"]) for metadata in self.metadata}
        if len(views) > 1:
            raise ValueError(f"{folder}: shards with different numbers of views, {sorted(views)}; tokenize again")
        self.views: int = views.pop()
        self.names = list(self._place)
        self._files: dict[int, Any] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._place

    def _slice(self, shard: int, key: str, row: int) -> np.ndarray:
        if shard not in self._files:
            self._files[shard] = _open(self.paths[shard])
        try:
            return self._files[shard].get_slice(key)[row : row + 1][0]
        except (SafetensorError, IndexError) as error:
            raise ValueError(
                f"{self.paths[shard]}: lacks row {row} of {key!r} ({error}); remove it and run `fourm tokenize` again"
            ) from None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}}


def _names(path: Path, metadata: Mapping[str, str]) -> list[str]:
    """The samples of a shard; what else its metadata must say is there, too. Raises ValueError."""
    try:
        names = json.loads(metadata["names"])
        if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise ValueError("names are no list of names")
        if int(metadata["views"]) < 1 or "views_digest" not in metadata:
            raise ValueError("no views")
    except (KeyError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: damaged ({error!r:.80}); remove it and run `fourm tokenize` again") from None
    return names


class TokenShards(_Shards):
    """Reads the tokens of one modality. `size`: its ids are below it; others would be tokens of another modality.

    ValueError for shards of several tokenizers, and for ids and rows that cannot be."""

    def __init__(self, folder: Path, *, size: int = 1 << 31) -> None:
        super().__init__(folder)
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

    @property
    def views_digests(self) -> list[str]:
        return [metadata["views_digest"] for metadata in self.metadata]


class RecordedViews(_Shards):
    """Reads the views that the tokens of `folder` were made through; of one shard, where `index` is given."""

    def __init__(self, folder: Path, index: int | None = None) -> None:
        super().__init__(Path(folder) / VIEWS_FOLDER, index)
        self.digests = [metadata["views_digest"] for metadata in self.metadata]
        self.groups: list[str] = json.loads(self.metadata[0]["groups"])

    def get(self, name: str, number: int) -> SampleViews:
        shard, row = self._place[name]
        return {group: View.from_row(self._slice(shard, group, row)[number]) for group in self.groups}


def write_views(folder: Path, index: int, names: Sequence[str], rows: list[list[SampleViews]], settings: dict) -> None:
    """rows: for each sample its views, each with the same groups."""
    groups = sorted(rows[0][0])
    tensors = {
        group: np.array([[views[group].to_row() for views in sample] for sample in rows], np.float64)
        for group in groups
    }
    digest = hashlib.blake2b(json.dumps([list(names), groups, settings]).encode(), digest_size=16)
    for group in groups:
        digest.update(tensors[group].tobytes())
    metadata = {
        "names": json.dumps(list(names)),
        "views": str(len(rows[0])),
        "views_digest": digest.hexdigest(),
        "settings": json.dumps(settings),
        "groups": json.dumps(groups),
    }
    _save(shard_path(Path(folder) / VIEWS_FOLDER, index), tensors, metadata)

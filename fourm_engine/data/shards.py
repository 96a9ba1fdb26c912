"""Shards of what `fourm tokenize` writes: a table a column in safetensors, for many samples, and their names.

    <folder>/_views/shard-00000.safetensors       the views of the samples; see `fourm_engine.data.view_shards`
    <folder>/<modality>/shard-00000.safetensors   their tokens; see `fourm_engine.data.tokens`

Metadata of both: `names` of the samples, in order, and the number of `views` of each. Its views decide which samples a
shard holds: new samples go into new shards. A file appears under its name only when it is whole.
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

from fourm_engine.files import write_atomically

VIEWS_FOLDER = "_views"
_FORMAT = "2"


def shard_path(folder: Path, index: int) -> Path:
    return Path(folder) / f"shard-{index:05d}.safetensors"


def shard_paths(folder: Path) -> list[Path]:
    return sorted(Path(folder).glob("shard-*.safetensors"))


def some_shard_paths(folder: Path) -> list[Path]:
    """Raises ValueError where there is none."""
    if not (paths := shard_paths(folder)):
        raise ValueError(f"{folder}: holds no shard-*.safetensors; run `fourm tokenize`")
    return paths


def open_shard(path: Path) -> Any:
    """The open file. Raises ValueError for a file that is no shard of this format."""
    try:
        file = safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path}: damaged or no token shard ({error}); remove it and run `fourm tokenize` again"
        ) from None
    if (file.metadata() or {}).get("format") != _FORMAT:
        raise ValueError(f"{path}: no token shard of format {_FORMAT}; remove it and run `fourm tokenize` again")
    return file


def save_shard(path: Path, columns: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    # Not `save_file`, which writes through a temporary file of its own: a kill would leave that one behind, and its
    # permissions keep everybody else from reading the shard.
    write_atomically(path, save(columns, {"format": _FORMAT, **metadata}))


def read_metadata(path: Path) -> dict[str, str]:
    """Raises ValueError for a file that is no shard of this format."""
    return open_shard(path).metadata()


def read_names(path: Path) -> list[str]:
    """The samples of a shard. Raises ValueError."""
    return names_of(path, read_metadata(path))


def damaged(path: Path, reason: object) -> ValueError:
    return ValueError(f"{path}: damaged ({reason!r:.80}); remove it and run `fourm tokenize` again")


def names_of(path: Path, metadata: Mapping[str, str]) -> list[str]:
    """The samples of a shard, whose metadata has a number of views, too. Raises ValueError."""
    names = strings_of(path, metadata, "names")
    try:
        if int(metadata["views"]) < 1:
            raise ValueError("no views")
    except (KeyError, ValueError) as error:
        raise damaged(path, error) from None
    return names


def strings_of(path: Path, metadata: Mapping[str, str], key: str) -> list[str]:
    """A list of strings among the metadata of a shard. Raises ValueError."""
    try:
        strings = json.loads(metadata[key])
        if not (isinstance(strings, list) and all(isinstance(string, str) for string in strings)):
            raise ValueError(f"{key} are no list of names")
    except (KeyError, ValueError, RecursionError) as error:
        raise damaged(path, error) from None
    return strings


def column_of(path: Path, file: Any, key: str, samples: int) -> np.ndarray:
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


def digest(*parts: bytes | str) -> int:
    """64 bits that tell one content from another; 0 for no content."""
    if not any(parts):
        return 0
    total = hashlib.blake2b(digest_size=8)
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        total.update(len(content).to_bytes(8, "little") + content)
    return int.from_bytes(total.digest(), "little")


class Shards:
    """Shards to read rows from, each opened when a process first needs it.

    Raises ValueError for damaged files, a sample in two of them, and different numbers of views."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        self.metadata = [read_metadata(path) for path in self.paths]
        #: The samples of each shard, in order.
        self.shards = [names_of(path, metadata) for path, metadata in zip(self.paths, self.metadata)]
        self._rows: dict[str, tuple[int, int]] = {}  # name -> (shard, row in it)
        for shard, path in enumerate(self.paths):
            for row, name in enumerate(self.shards[shard]):
                first = self._rows.setdefault(name, (shard, row))
                if first != (shard, row):
                    raise ValueError(
                        f"sample {name!r} is in both {self.paths[first[0]]} and {path}; remove the second and run "
                        f"`fourm tokenize` again"
                    )
        views = {int(metadata["views"]) for metadata in self.metadata}
        if len(views) > 1:
            raise ValueError(f"{self.paths[0].parent}: shards with different numbers of views, {sorted(views)}")
        self.views: int = views.pop() if views else 0
        self.names = list(self._rows)
        self._files: dict[int, Any] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._rows

    def column(self, key: str) -> dict[str, int]:
        """Sample -> its entry in a column of digests."""
        entries: dict[str, int] = {}
        for shard, names in enumerate(self.shards):
            entries |= zip(names, column_of(self.paths[shard], self._file(shard), key, len(names)).tolist())
        return entries

    def _slice(self, shard: int, key: str, row: int) -> np.ndarray:
        try:
            return self._file(shard).get_slice(key)[row : row + 1][0]
        except (SafetensorError, IndexError) as error:
            raise ValueError(
                f"{self.paths[shard]}: lacks row {row} of {key!r} ({error}); remove it and run `fourm tokenize` again"
            ) from None

    def _file(self, shard: int) -> Any:
        if shard not in self._files:
            self._files[shard] = open_shard(self.paths[shard])
        return self._files[shard]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}}

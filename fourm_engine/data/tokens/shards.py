"""The shards that `fourm tokenize` writes: safetensors tables of many samples, one tensor per column.

    <folder>/_views/shard-00000.safetensors       the names of the samples and their views; see `view_shards`
    <folder>/<modality>/shard-00000.safetensors   the tokens of the same samples, row by row; see `token_shards`
    <folder>/_index/                              what all of them hold, for those who read; see `index`

The views determine which samples a shard contains, and in which order. That never changes: new samples go into new
shards, and a modality that a sample lacks is an empty row. Files are written atomically.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from fourm_engine.data.names_table import ENCODING, joined
from fourm_engine.data.tokens.ranged import RangedShard
from fourm_engine.files import write_atomically
from fourm_engine.storage.location import Location, Readable
from fourm_engine.storage.remote import Shard
from fourm_plugins.counting import counted
from fourm_plugins.errors import check_permitted

VIEWS_FOLDER = "_views"
_FORMAT = "3"
#: The remedy for an unusable shard.
ANEW = "remove it and run `fourm tokenize` again"


def shard_path(folder: Path, number: int) -> Path:
    return Path(folder) / shard_name(number)


def shard_name(number: int) -> str:
    return f"shard-{number:05d}.safetensors"


def missing(folder: Readable, part: str, number: int, shards: int) -> str:
    """The message that files of a part are missing, for `shards` shards, the first of which is `number`."""
    path = folder / part / shard_name(number)
    effect = "samples are left out" if part == VIEWS_FOLDER else f"samples are used without {part}"
    if shards == 1:
        return f"{path} is missing; its {effect}"
    return f"{counted(shards, 'shard')} are missing, such as {path}; their {effect}"


class ShardFile:
    """An open token shard. `known`: the index's entry for a remote one.

    Raises ValueError for a file that is not a shard of this format; so do the methods for unusable contents."""

    def __init__(self, path: Readable, known: Shard | None = None) -> None:
        self.path = path
        if isinstance(path, Path):
            check_permitted(path)
        try:
            if isinstance(path, Location) and (copy := path.local(*(known or ())[1:])) is None:
                self._file: Any = RangedShard(path.open(None if known is None else known.size))
            else:
                self._file = safe_open(copy if isinstance(path, Location) else path, framework="numpy")
        except (SafetensorError, OSError) as error:
            raise unusable(path, f"damaged or no token shard ({error})") from None
        if self.metadata.get("format") != _FORMAT:
            raise unusable(path, f"no token shard of format {_FORMAT}")

    @property
    def metadata(self) -> dict[str, str]:
        return self._file.metadata() or {}

    def column(self, key: str, *shape: int, dtype: type = np.uint64) -> np.ndarray:
        """A column of this shape and dtype. -1: any length."""
        try:
            column = self._file.get_tensor(key)
        except SafetensorError:
            column = np.zeros(0)
        fits = column.ndim == len(shape) and all(n in (-1, m) for n, m in zip(shape, column.shape))
        if column.dtype != dtype or not fits:
            raise unusable(self.path, f"holds no column {key!r} of {np.dtype(dtype)} {shape}")
        return column

    def row(self, key: str, row: int) -> np.ndarray:
        """One row of a column, without reading the others."""
        try:
            return self._file.get_slice(key)[row : row + 1][0]
        except (SafetensorError, IndexError) as error:
            raise unusable(self.path, f"lacks row {row} of {key!r} ({error})") from None

    def check_whole(self) -> None:
        """Raise ValueError if the columns of a local file differ from what was written."""
        assert isinstance(self.path, Path)
        if self.metadata.get("checksum") not in (None, _checksum(self.path.read_bytes())):
            raise ValueError("other bytes than were written; upload it again")


def save_shard(path: Path, columns: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    # Not `save_file`, which writes through a temporary file of its own: a kill would leave that behind, and its
    # permissions keep other users from reading the shard.
    metadata = {"format": _FORMAT, **metadata}
    write_atomically(path, save(columns, metadata | {"checksum": _checksum(save(columns, metadata))}))


def _checksum(content: bytes) -> str:
    """CRC-32 of the columns."""
    return f"{zlib.crc32(memoryview(content)[8 + int.from_bytes(content[:8], 'little') :]):08x}"


def unusable(path: Readable, why: str) -> ValueError:
    return ValueError(f"{path}: {why}; {ANEW}")


def damaged(path: Readable, reason: object) -> ValueError:
    return unusable(path, f"damaged ({reason!r:.80})")


def names_columns(names: Sequence[str]) -> dict[str, np.ndarray]:
    """The columns with the names: `names` uint8, concatenated UTF-8, and `name_offsets` int64 (samples + 1,)."""
    offsets, blob = joined([name.encode(*ENCODING) for name in names])
    return {"names": blob, "name_offsets": offsets}


def names_digest(names: Sequence[str]) -> int:
    """Identifies a sequence of samples."""
    columns = names_columns(names)
    return digest(columns["name_offsets"].tobytes(), columns["names"].tobytes())


def digest(*parts: bytes | str) -> int:
    """A 64-bit digest of the content; 0 for no content."""
    if not any(parts):
        return 0
    contents = [part.encode() if isinstance(part, str) else part for part in parts]
    whole = b"".join([piece for content in contents for piece in (len(content).to_bytes(8, "little"), content)])
    return int.from_bytes(hashlib.blake2b(whole, digest_size=8).digest(), "little")

"""Reads parts of a safetensors file: for a remote shard that cannot be copied, and hence not mapped."""

from __future__ import annotations

from math import prod

import numpy as np
import torch
from safetensors import SafetensorError

from fourm_engine.storage.remote import OpenFile
from fourm_engine.weights import Entry, header


class RangedShard:
    """The part of the interface of `safe_open` that token shards use. Raises SafetensorError for an invalid file."""

    def __init__(self, file: OpenFile) -> None:
        self._file = file
        self._metadata, self._tensors = header(file.read, file.size)

    def metadata(self) -> dict[str, str]:
        return self._metadata

    def get_slice(self, key: str) -> _Rows:
        if key not in self._tensors:
            raise SafetensorError(f"no tensor {key!r}")
        return _Rows(self._file, self._tensors[key])

    def get_tensor(self, key: str) -> np.ndarray:
        return self.get_slice(key)[:]


class _Rows:
    """A tensor, read when it is sliced along its first axis."""

    def __init__(self, file: OpenFile, entry: Entry) -> None:
        self.file, self.entry = file, entry

    def __getitem__(self, rows: slice) -> np.ndarray:
        entry = self.entry
        if entry.dtype not in _DTYPES or not entry.shape:
            raise SafetensorError(f"{entry.dtype} {entry.shape} is no column")
        first, last, _ = rows.indices(entry.shape[0])
        row, number = prod(entry.shape[1:]) * entry.dtype.itemsize, max(0, last - first)
        data = self.file.read(entry.start + first * row, number * row)
        if len(data) != number * row:
            raise SafetensorError("it ends before its last row")
        return np.frombuffer(data, _DTYPES[entry.dtype]).reshape(number, *entry.shape[1:])


#: Dtypes of the columns of token shards.
_DTYPES = {
    **{torch.uint8: "u1", torch.int32: "<i4", torch.int64: "<i8", torch.uint64: "<u8"},
    **{torch.float32: "<f4", torch.float64: "<f8"},
}

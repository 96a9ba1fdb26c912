"""A safetensors file that is read in parts: where a remote shard cannot be copied, and so not mapped either."""

from __future__ import annotations

import json

import numpy as np
from safetensors import SafetensorError

from fourm_engine.storage.remote import OpenFile

#: Of the header, as in safetensors.
MAX_HEADER_BYTES = 100_000_000
_DTYPES = {"U8": "u1", "I32": "<i4", "I64": "<i8", "U64": "<u8", "F32": "<f4", "F64": "<f8"}


class RangedShard:
    """What `safe_open` gives, as far as token shards need it. Raises SafetensorError for what is no such file."""

    def __init__(self, file: OpenFile) -> None:
        self._file = file
        length = int.from_bytes(file.read(0, 8), "little")
        if not 0 < length <= min(MAX_HEADER_BYTES, file.size - 8):
            raise SafetensorError("no header")
        try:
            header = json.loads(file.read(8, length))
            self._metadata = {str(k): str(v) for k, v in header.pop("__metadata__", {}).items()}
            self._tensors = {key: _Rows(file, 8 + length, **entry) for key, entry in header.items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise SafetensorError(f"its header cannot be read ({error!s:.80})") from None

    def metadata(self) -> dict[str, str]:
        return self._metadata

    def get_slice(self, key: str) -> _Rows:
        if key not in self._tensors:
            raise SafetensorError(f"no tensor {key!r}")
        return self._tensors[key]

    def get_tensor(self, key: str) -> np.ndarray:
        return self.get_slice(key)[:]


class _Rows:
    """A tensor, read when it is sliced along its first axis."""

    def __init__(self, file: OpenFile, start: int, *, dtype: str, shape: list[int], data_offsets: list[int]) -> None:
        self.file, self.dtype, self.shape = file, np.dtype(_DTYPES[dtype]), tuple(int(n) for n in shape)
        begin, end = (int(at) for at in data_offsets)
        size = int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize
        if not 0 <= begin <= end <= file.size - start or end - begin != size or min(self.shape, default=0) < 0:
            raise ValueError("a tensor of another size than its bytes")
        self.start = start + begin

    def __getitem__(self, rows: slice) -> np.ndarray:
        first, last, _ = rows.indices(self.shape[0])
        row = self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))
        number = max(0, last - first)
        data = self.file.read(self.start + first * row, number * row)
        return np.frombuffer(data, self.dtype).reshape(number, *self.shape[1:])

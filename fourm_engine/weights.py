"""Files of weights (safetensors): reading, comparing with a module, digests.

They are read, never mapped: if a mapped file is truncated while it is loaded, or its disk fails, the process dies
silently (SIGBUS). Reading raises an error that names the tensor instead."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from types import EllipsisType

import torch
from safetensors import SafetensorError
from torch import Tensor

from fourm_plugins.counting import some
from fourm_plugins.errors import check_permitted

#: Numbers read at a time when converting.
BLOCK = 1 << 20
#: Maximum size in bytes of a header, as in the safetensors library.
MAX_HEADER_BYTES = 100_000_000
#: The format's names of the supported dtypes.
DTYPES = {
    "BOOL": torch.bool,
    **{"U8": torch.uint8, "U16": torch.uint16, "U32": torch.uint32, "U64": torch.uint64},
    **{"I8": torch.int8, "I16": torch.int16, "I32": torch.int32, "I64": torch.int64},
    **{"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64},
    **{"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "C64": torch.complex64},
}
#: `read(part, name, first)` fills `part` with the rows of a parameter from `first` on, and reads no more of the file.
Read = Callable[[Tensor, str, int], None]


@dataclass(frozen=True)
class Entry:
    """A tensor's entry in the header; its data begins at byte `start` of the file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int

    @property
    def row(self) -> int:
        """Bytes per row; for a scalar, all."""
        return prod(self.shape[1:]) * self.dtype.itemsize


def header(read: Callable[[int, int], bytes], size: int) -> tuple[dict[str, str], dict[str, Entry]]:
    """(metadata, tensors) of a file of `size` bytes; `read(start, length)` reads it. Raises SafetensorError for an
    invalid file: the bytes after the header must be those of the tensors, each exactly once."""
    length = int.from_bytes(read(0, 8), "little") if size >= 8 else 0
    if not 0 < length <= min(MAX_HEADER_BYTES, size - 8):
        raise SafetensorError("no header")
    return _parsed(read(8, length), size)


@lru_cache(maxsize=2)  # a model's file is opened for each parameter: with 700, parsing takes 7 ms each time
def _parsed(content: bytes, size: int) -> tuple[dict[str, str], dict[str, Entry]]:
    begins = 8 + len(content)
    try:
        document = json.loads(content)
        metadata = {str(key): str(value) for key, value in document.pop("__metadata__", {}).items()}
        tensors, spans = dict[str, Entry](), list[tuple[int, int]]()
        for name, facts in document.items():
            shape = tuple(int(edge) for edge in facts["shape"])
            begin, end = (int(at) for at in facts["data_offsets"])
            tensors[name] = entry = Entry(DTYPES[facts["dtype"]], shape, begins + begin)
            if min(shape, default=0) < 0 or end - begin != prod(shape) * entry.dtype.itemsize:
                raise ValueError(f"{name:.80} has another size than its bytes")
            spans.append((begin, end))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise SafetensorError(f"its header cannot be read ({error!s:.120})") from None
    at = 0
    for begin, end in sorted(spans):
        if begin != at:
            raise SafetensorError("its header names bytes twice, or not at all")
        at = end
    if begins + at != size:
        raise SafetensorError(f"{size} bytes instead of {begins + at}")
    return metadata, tensors


class StoredTensor:
    """A tensor of an open file, read when it is sliced along its first axis; [...] reads all of it."""

    def __init__(self, handle: int, name: str, entry: Entry) -> None:
        self._handle, self._name, self._entry = handle, name, entry

    @property
    def dtype(self) -> torch.dtype:
        return self._entry.dtype

    def get_shape(self) -> list[int]:
        return list(self._entry.shape)

    def __getitem__(self, rows: slice | EllipsisType) -> Tensor:
        shape, first = self._entry.shape, 0
        if isinstance(rows, slice):
            first, last, _ = rows.indices(shape[0])
            shape = (max(0, last - first), *shape[1:])
        values = torch.empty(shape, dtype=self._entry.dtype)
        self.fill(values, first)
        return values

    def fill(self, rows: Tensor, first: int = 0) -> None:
        """Read into `rows`, of any dtype and device, starting at row `first`. Raises OSError, and SafetensorError if
        the file has no such rows."""
        shape, number = self._entry.shape, len(rows) if rows.ndim else 1
        if tuple(rows.shape[1:]) != shape[1:] or rows.ndim != len(shape) or first + number > [*shape, 1][0]:
            raise SafetensorError(f"{self._name} has shape {list(shape)}, {list(rows.shape)} was to be read")
        if rows.device.type == "cpu" and rows.dtype == self._entry.dtype and rows.is_contiguous():
            self._read(rows.detach(), first)
            return
        with torch.no_grad():
            if not rows.ndim:
                rows.copy_(self[...])
                return
            step = max(1, BLOCK // max(1, prod(shape[1:])))
            for begin in range(0, number, step):
                end = min(begin + step, number)
                rows[begin:end].copy_(self[first + begin : first + end])

    def _read(self, rows: Tensor, first: int) -> None:
        if not rows.numel():
            return
        left = memoryview(rows.reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
        at = self._entry.start + first * self._entry.row
        while left:
            if not (count := os.preadv(self._handle, [left], at)):
                raise SafetensorError(f"it ends within {self._name}")
            left, at = left[count:], at + count


class TensorFile:
    """An open safetensors file, with the subset of the methods of `safe_open` used here."""

    def __init__(self, handle: int) -> None:
        def read(start: int, length: int) -> bytes:
            content = os.pread(handle, length, start)
            if len(content) != length:
                raise SafetensorError("it ends within its header")
            return content

        self._handle = handle
        self._metadata, self._tensors = header(read, os.fstat(handle).st_size)

    def metadata(self) -> dict[str, str]:
        return self._metadata

    def keys(self) -> list[str]:
        return list(self._tensors)

    def get_slice(self, name: str) -> StoredTensor:
        if name not in self._tensors:
            raise SafetensorError(f"no tensor {name!r}")
        return StoredTensor(self._handle, name, self._tensors[name])

    def get_tensor(self, name: str) -> Tensor:
        return self.get_slice(name)[...]


@contextmanager
def tensor_file(path: Path) -> Iterator[TensorFile]:
    """A safetensors file, open for reading. Raises OSError and SafetensorError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        yield TensorFile(handle)
    finally:
        os.close(handle)


def check_shapes(shapes: Mapping[str, tuple], expected: Mapping[str, tuple], what: str) -> None:
    """Raise ValueError, beginning with `what`, naming the first tensors that are missing, unknown or misshapen."""
    wrong = [
        *(f"{name} is missing" for name in sorted(expected.keys() - shapes.keys())),
        *(f"{name} is unknown" for name in sorted(shapes.keys() - expected.keys())),
        *(
            f"{name} has shape {shapes[name]}, expected {expected[name]}"
            for name in sorted(expected.keys() & shapes.keys())
            if shapes[name] != expected[name]
        ),
    ]
    if wrong:
        raise ValueError(f"{what}: {some(wrong, '; ')}")


@contextmanager
def opened(
    path: Path,
    expected: Mapping[str, tuple[int, ...]] | None = None,
    *,
    to: str = "config.json",
    only: str | tuple[str, ...] = "",
    remedy: str = "fetch it again",
) -> Iterator[TensorFile]:
    """A safetensors file, open for reading. `expected`: name -> shape of its tensors whose names start with `only`, as
    required by `to`. Raises ValueError, naming the file, if it is invalid, truncated, or has other tensors."""
    check_permitted(path)
    try:
        with tensor_file(path) as file:
            if expected is not None:
                shapes = {k: tuple(file.get_slice(k).get_shape()) for k in file.keys() if k.startswith(only)}  # noqa: SIM118
                check_shapes(shapes, expected, f"{path} does not fit {to}")
            yield file
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: not a safetensors file, or a truncated one ({error}); {remedy}") from None


def read_rows(path: Path, name: str, rows: Tensor, first: int, *, leading: int = 0) -> None:
    """Fill `rows` with those of a tensor of a file, starting at row `first`. `leading`: number of leading axes of
    length 1 in the file; such a tensor is read at once. Raises ValueError for a truncated file."""
    try:
        with tensor_file(path) as file:
            if leading:
                rows.copy_(file.get_tensor(name).flatten(0, leading)[first : first + len(rows)])
            else:
                file.get_slice(name).fill(rows, first)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: {name} cannot be read ({error}); fetch the file again") from None


def digest_of(path: Path) -> str:
    """The first 16 hex digits of a file's SHA-256."""
    return sha256_of(path)[:16]


def sha256_of(path: Path) -> str:
    """A file's SHA-256, 64 hex digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(1 << 22):
            digest.update(part)
    return digest.hexdigest()

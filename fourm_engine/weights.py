"""Files of weights (safetensors): opened and compared with a module, single rows, digests."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from fourm_plugins.counting import some
from fourm_plugins.permitted import check_permitted

#: Numbers read at a time.
BLOCK = 1 << 20
#: `read(part, name, first)` fills `part` with the rows of a parameter from `first` on, and reads no more of the file.
Read = Callable[[Tensor, str, int], None]


@contextmanager
def tensor_file(path: Path) -> Iterator[Any]:
    """A safetensors file, open for reading tensors of torch, also below a path that is not UTF-8: safetensors takes
    none, so it is given the open file. Raises OSError and SafetensorError."""
    with ExitStack() as stack:
        try:
            name = os.fspath(path)
            name.encode()
        except UnicodeEncodeError:
            handle = os.open(path, os.O_RDONLY)
            stack.callback(os.close, handle)
            name = f"/dev/fd/{handle}"
        yield stack.enter_context(safe_open(name, framework="pt"))


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
) -> Iterator[Any]:
    """A safetensors file, open for reading. `expected`: name -> shape of its tensors whose names start with `only`, as
    follows from what they must fit `to`. Raises ValueError, naming the file, where it is none, truncated, or has other
    tensors."""
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
    """Fill `rows` with those of a tensor of a file, from row `first` on, a few at a time; the file is closed again,
    since pages of it that were read count as memory. `leading`: axes of length 1 that the file has before them; such a
    tensor is read at once. Raises ValueError for a truncated file."""
    step = max(1, BLOCK // max(1, rows[:1].numel()))
    try:
        with tensor_file(path) as file:
            if leading:
                rows.copy_(file.get_tensor(name).flatten(0, leading)[first : first + len(rows)])
                return
            stored = file.get_slice(name)
            for begin in range(0, len(rows), step):
                end = min(begin + step, len(rows))
                rows[begin:end].copy_(stored[first + begin : first + end])
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: {name} cannot be read ({error}); fetch the file again") from None


def digest_of(path: Path) -> str:
    """16 hex digits of a file's SHA-256."""
    return sha256_of(path)[:16]


def sha256_of(path: Path) -> str:
    """Of a file, 64 hex digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(1 << 22):
            digest.update(part)
    return digest.hexdigest()

"""Files of weights (safetensors): whether their tensors fit a module, single rows, digests."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

#: Numbers read at a time.
BLOCK = 1 << 20


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
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ValueError(f"{what}: {'; '.join(wrong[:5])}{more}")


def check_weights(path: Path, expected: Mapping[str, tuple[int, ...]], *, only: tuple[str, ...] = ("",)) -> None:
    """Raise ValueError where the tensors of a file, of names that start with `only`, are not those `expected`."""
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {k: tuple(file.get_slice(k).get_shape()) for k in file.keys() if k.startswith(only)}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: not a safetensors file, or a truncated one ({error}); fit it again") from None
    check_shapes(shapes, expected, f"{path} does not fit the tokenizer's settings")


def read_rows(path: Path, name: str, rows: Tensor, first: int, *, leading: int = 0) -> None:
    """Fill `rows` with those of a tensor of a file, from row `first` on, a few at a time; the file is closed again,
    since pages of it that were read count as memory. `leading`: axes of length 1 that the file has before them; such a
    tensor is read at once. Raises ValueError for a truncated file."""
    step = max(1, BLOCK // max(1, rows[:1].numel()))
    try:
        with safe_open(path, framework="pt") as file:
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

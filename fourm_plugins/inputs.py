"""Converts what users pass (paths, bytes, arrays, tensors) to files and arrays, and words the errors.

Returns {extension: content} or NumPy arrays of native types, or raises a `SampleError`. Does not import torch: a tensor
is recognised by the module of its class.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fourm_plugins.errors import SampleError
from fourm_plugins.suggest import nearest_path

if TYPE_CHECKING:
    from jaxtyping import Shaped
#: Larger files are rejected.
MAX_FILE_BYTES = 1 << 28
#: Extensions of files that people write by hand.
TEXT_EXTENSIONS = frozenset({"txt", "json", "jsonl", "csv", "tsv", "yaml", "yml", "xml", "md"})

_SIGNATURES = (
    (b"\x89PNG", ("png",)),
    (b"\xff\xd8\xff", ("jpg", "jpeg")),
    (b"\x93NUMPY", ("npy",)),
    (b"PK\x03\x04", ("npz", "zip")),
    (b"II*\0", ("tif", "tiff")),
    (b"MM\0*", ("tif", "tiff")),
    (b"GIF8", ("gif",)),
    (b"fLaC", ("flac",)),
    (b"OggS", ("ogg",)),
)
_FILE_NAME = re.compile(r"\.[A-Za-z]\w{1,5}$")
_URL = re.compile(r"[A-Za-z][\w+.-]+:/")
_ROOTED = re.compile(r"(~|\.{1,2})?[/\\]|[A-Za-z]:[/\\]")


def describe(given: Any) -> str:
    """A short description of `given`: `float64 (48, 64)`, `a list of 3 int`, `a PIL picture of mode L, 64x48`."""
    if isinstance(given, np.ndarray):
        return f"{given.dtype} {given.shape}"
    if is_picture(given):
        return f"a PIL picture of mode {given.mode}, {given.width}x{given.height}"
    if isinstance(given, (list, tuple, set, frozenset, dict)):
        kinds = sorted({type(item).__name__ for item in given})
        return f"a {type(given).__name__} of {len(given)} {' and '.join(kinds[:3])}".rstrip()
    if given is None:
        return "None"
    if isinstance(given, (str, int, float, complex, np.generic)):
        return f"{type(given).__name__} {given!r:.60}"
    return f"a {type(given).__module__}.{type(given).__qualname__}".replace("a builtins.", "a ")


def refusal(wanted: str, given: Any, why: str = "") -> SampleError:
    """`why`, what is expected, and what was given, in one line."""
    return SampleError(f"{why + '; ' if why else ''}wanted: {wanted}; given: {describe(given)}")


def is_picture(given: Any) -> bool:
    """Whether it is a `PIL.Image`; does not import PIL."""
    pil = sys.modules.get("PIL.Image")
    return pil is not None and isinstance(given, pil.Image)


# Arrays


def as_array(given: Any) -> np.ndarray | None:
    """The NumPy array, in native byte order, of an array or tensor (torch: on any device, of any dtype, with or without
    gradients); None for anything else. Raises `SampleError` if it cannot be converted."""
    if isinstance(given, np.generic):
        return None
    try:
        if type(given).__module__.partition(".")[0] == "torch" and hasattr(given, "detach"):
            array = _from_torch(given)
        elif isinstance(given, np.ma.MaskedArray):
            if given.dtype.kind != "f" and np.ma.is_masked(given):
                raise SampleError(f"a masked array of {given.dtype}: fill in what is masked first (.filled(...))")
            array = np.asarray(given.filled(np.nan) if given.dtype.kind == "f" else given)
        elif isinstance(given, np.ndarray) or (hasattr(given, "__array__") and not isinstance(given, type)):
            array = np.asarray(given)
        else:
            return None
    except SampleError:
        raise
    except Exception as error:  # a tensor without data, an array that cannot be converted
        raise SampleError(f"{describe(given)} cannot be made a NumPy array: {_one_line(error)}") from None
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _from_torch(tensor: Any) -> np.ndarray:
    tensor = tensor.detach()
    if getattr(tensor, "is_quantized", False):
        tensor = tensor.dequantize()
    if str(getattr(tensor, "layout", "torch.strided")) != "torch.strided":
        tensor = tensor.to_dense()
    tensor = tensor.cpu().resolve_conj().resolve_neg()
    try:
        return np.asarray(tensor.numpy())
    except TypeError:  # bfloat16 and smaller floats, which NumPy lacks
        return np.asarray(tensor.float().numpy())


def numbers(array: np.ndarray, wanted: str, *, gaps: bool = False) -> np.ndarray:
    """`array`, which must hold at least one real number, and not only NaN unless `gaps`. Raises `SampleError`."""
    if array.dtype.kind not in "biuf":
        raise refusal(wanted, array, "not an array of numbers")
    if not array.size:
        raise refusal(wanted, array, "empty")
    if array.dtype.kind == "f" and not gaps and np.isnan(array).all():
        raise refusal(wanted, array, "nothing but NaN")
    return array


def one_channel(array: np.ndarray, wanted: str) -> Shaped[np.ndarray, "H W"]:
    """(H, W), (H, W, 1) or (1, H, W) of numbers or NaN as (H, W). Raises `SampleError`."""
    array = numbers(array, wanted, gaps=True)
    if array.ndim == 3 and array.shape[2] == 1:
        return array.squeeze(2)
    if array.ndim == 3 and array.shape[0] == 1:
        return array.squeeze(0)
    if array.ndim != 2:
        raise refusal(wanted, array, _dimensions(array))
    return array


def channels_last(array: np.ndarray, channels: Sequence[int], wanted: str) -> Shaped[np.ndarray, "H W C"]:
    """Numbers as (H, W, C) with C among `channels`; channels first is accepted if they cannot be last. Raises
    `SampleError`."""
    array = numbers(array, wanted)
    if array.ndim == 3 and array.shape[2] not in channels and array.shape[0] in channels:
        array = np.moveaxis(array, 0, 2)
    if array.ndim != 3 or array.shape[2] not in channels:
        raise refusal(wanted, array, _dimensions(array))
    return array


def _dimensions(array: np.ndarray) -> str:
    if array.ndim == 4:
        return "a batch; give one sample, array[0]"
    return f"{array.ndim} dimensions" if array.ndim not in (2, 3) else "not this shape"


# Files


def looks_like_path(text: str, extensions: Sequence[str], *, typed: bool) -> bool:
    """Whether a str is meant as a path: always if it has no other meaning (`typed` False); otherwise if it ends in an
    extension, names an existing file, starts like a path, or has a separator and no spaces."""
    if not typed or text.lower().endswith(tuple(f".{e.lower()}" for e in extensions)):
        return True
    if text.lstrip()[:1] in ("[", "{") or "\n" in text:
        return False
    separated, spaced = "/" in text or "\\" in text, any(map(str.isspace, text.strip()))
    if _ROOTED.match(text) or (_FILE_NAME.search(text) and (separated or not spaced)) or (separated and not spaced):
        return True
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # a sentence too long for a file name, a NUL
        return False


def read_file(path: Path, extensions: Sequence[str]) -> dict[str, bytes]:
    """{extension: content} of one file. Raises `SampleError` naming the path."""
    try:
        if not path.exists() and str(path).startswith("~"):
            path = path.expanduser()
        if path.is_dir():
            raise SampleError(f"{path} is a folder; give one file ({_dotted(extensions)})")
        if not path.is_file():
            if _URL.match(str(path)):  # the user and password of a URL are not for logs
                raise SampleError("files are not read from a URL; download it")
            if path.exists():
                raise SampleError(f"{path} is a device or pipe; give a file ({_dotted(extensions)})")
            near = nearest_path(path)
            raise SampleError(f"no such file: {path}" + (f"; did you mean {near}?" if near else ""))
        extension = next((e for e in extensions if path.name.lower().endswith(f".{e.lower()}")), None)
        if extension is None:
            raise SampleError(f"{path}: expected a file that ends in {_dotted(extensions)}")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise SampleError(f"{path} is larger than {MAX_FILE_BYTES} bytes")
        return {extension: path.read_bytes()}
    except SampleError:
        raise
    except (OSError, ValueError, RuntimeError) as error:  # no permission, a name too long, no home
        raise SampleError(f"{str(path)[:200]} cannot be read: {_one_line(error)}") from None


def sniff(content: bytes, extensions: Sequence[str]) -> str:
    """Which of `extensions` the file with these bytes has. Raises `SampleError` if it is none of them, or ambiguous."""
    if not content:
        raise SampleError(f"no bytes; give those of a file ({_dotted(extensions)})")
    kinds = next((kinds for start, kinds in _SIGNATURES if content.startswith(start)), ())
    if content[:4] == b"RIFF":
        kinds = ("webp",) if content[8:12] == b"WEBP" else ("wav",) if content[8:12] == b"WAVE" else kinds
    known = {kind for _, all_ in _SIGNATURES for kind in all_} | {"webp", "wav"}
    matching = [e for e in extensions if e in kinds] if kinds else [e for e in extensions if e not in known]
    if not matching and len(extensions) == 1 and not kinds:
        matching = list(extensions)  # possibly damaged; `read` reports how
    if not kinds and len(matching) > 1:
        raise SampleError(f"bytes may be one of several files ({_dotted(matching)}); give the path instead")
    if not matching:
        what = f"bytes of a .{kinds[0]} file" if kinds else "bytes of an unknown file"
        raise SampleError(f"{what}; its files are {_dotted(extensions)}")
    return matching[0]


def _dotted(extensions: Sequence[str]) -> str:
    return ", ".join(f".{e}" for e in extensions)


def _one_line(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:200] or type(error).__name__

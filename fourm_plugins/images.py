"""For writers of picture-like modalities: bounded decoding, crop and resize by a View, encoding, colours, examples.

Takes the bytes of untrusted files, and arrays with rows and columns first, (H, W) or (H, W, C); returns arrays of the
same kind, or raises a `SampleError` of one line. Does not import torch.
"""

from __future__ import annotations

import colorsys
import io
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from PIL import Image
from pydantic import Field, field_validator

from fourm_plugins.decoding import MAX_PIXELS as MAX_PIXELS
from fourm_plugins.decoding import as_channel as as_channel
from fourm_plugins.decoding import as_rgb as as_rgb
from fourm_plugins.decoding import decode_map as decode_map
from fourm_plugins.decoding import decode_picture as decode_picture
from fourm_plugins.decoding import decode_rgb as decode_rgb
from fourm_plugins.decoding import upright as upright
from fourm_plugins.errors import SampleError
from fourm_plugins.settings import Settings
from fourm_plugins.spec import NAME_PATTERN, Grid, TokenizerRecipe, TokenSpace
from fourm_plugins.view import View

if TYPE_CHECKING:
    from jaxtyping import Float, Int, Shaped, UInt8
#: Larger arrays (.npy) are rejected from their header.
MAX_ARRAY_BYTES = 512_000_000
#: The colour of pixels without a measurement or a class.
NOTHING = (0, 0, 0)

# Nine evenly spaced colours of matplotlib's "viridis", as hexadecimal RGB; colours in between are interpolated.
_VIRIDIS_HEX = "440154 472c7a 3b518b 2c718e 21908d 27ad81 5cc863 aadc32 fde725"
_VIRIDIS = np.frombuffer(bytes.fromhex(_VIRIDIS_HEX), np.uint8).reshape(-1, 3)


class PictureSettings(Settings):
    """Settings of all modalities on a grid of patches."""

    small: ClassVar[Mapping[str, Any]] = {"image_size": 24, "patch_size": 4}
    run_only = frozenset({"source", "masker"})

    #: In pixels: one number for a square, or [height, width].
    image_size: int | tuple[int, int] = 224
    #: Pixels per token: one number, or [height, width].
    patch_size: int | tuple[int, int] = 16
    #: Folder of the data set to read; by default the modality's name up to an "@".
    source: str | None = None
    #: Kind of masker, in place of the layout's default.
    masker: str | None = None

    @field_validator("image_size", "patch_size")
    @classmethod
    def _positive(cls, value: int | tuple[int, int]) -> int | tuple[int, int]:
        if min(_pair(value)) < 1:
            raise ValueError(f"{value} is not a size in pixels")
        height, width = _pair(value)
        return height if height == width else value  # one spelling of a square

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return _pair(self.image_size)

    def grid(self) -> Grid:
        """One token per patch. Raises ValueError if the patches do not divide the picture."""
        (height, width), (rows, columns) = self.size, _pair(self.patch_size)
        if height % rows or width % columns:
            raise ValueError(f"patch_size {rows}x{columns} does not divide image_size {height}x{width}; change one")
        return Grid(height=height // rows, width=width // columns)

    def published(self, prefix: str) -> str | None:
        """Name in the published format, such as `tok_rgb@224`; None unless the picture is square."""
        height, width = self.size
        return f"{prefix}@{height}" if height == width else None


class TokenSettings(PictureSettings):
    """Settings of a grid modality that has tokens."""

    small: ClassVar[Mapping[str, Any]] = {
        **PictureSettings.small,
        "codebook_size": 64,
        "tokenizer": {"encoder": {"width": 64, "blocks": 0}, "decoder": {"width": 64, "blocks": 1}},
    }

    codebook_size: int = Field(default=8192, ge=2)
    #: Token space, and with it the tokenizer, to share with instances of other sizes. null: a space of its own, named
    #: like the modality.
    space: str | None = Field(default=None, pattern=NAME_PATTERN)
    #: Settings of the tokenizer that override the modality's defaults; `kind` chooses another kind than `vqvae`.
    tokenizer: dict[str, Any] = Field(default_factory=dict)

    def token_space(self, name: str) -> TokenSpace:
        return TokenSpace(name=self.space or name, size=self.codebook_size, shared=self.space is not None)

    def recipe(self, **defaults: Any) -> TokenizerRecipe:
        return TokenizerRecipe.choose(self.tokenizer, kind="vqvae", **defaults)


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


# Decoding


def only_file(files: Mapping[str, bytes], extensions: Sequence[str]) -> tuple[str, bytes]:
    """(extension, content) of the only file among `files` with one of `extensions`."""
    present = [extension for extension in extensions if extension in files]
    if len(present) != 1:
        missing = f"no file of {', '.join('.' + e for e in extensions)}"
        seen = f"both .{present[0]} and .{present[1]}" if present else missing
        raise SampleError(f"{seen} for one sample; exactly one is needed")
    return present[0], files[present[0]]


def only_json(files: Mapping[str, bytes], extensions: Sequence[str], what: str, *, most: int) -> Any:
    """The JSON in the only file among `files` with one of `extensions`, of at most `most` bytes. Error messages begin
    with `what`."""
    content = only_file(files, extensions)[1]
    if len(content) > most:
        raise SampleError(f"{what} in a file of {len(content)} bytes; at most {most} are read")
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise SampleError(f"{what}: not JSON: {error}") from error


def decode_array(content: bytes, *, ndim: int) -> np.ndarray:
    """The numbers of a .npy file with `ndim` dimensions, as stored. Its header is checked before memory is
    allocated."""
    stream = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(stream)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, columns_first, dtype = header(stream)
    except Exception as error:
        raise SampleError(f"not a .npy file: {error}") from error
    if dtype.kind not in "fiu" or len(shape) != ndim or min(shape, default=1) < 1:
        raise SampleError(f"array of {dtype} {shape}; numbers in {ndim} dimensions are needed")
    declared, stored = dtype.itemsize, len(content) - stream.tell()
    for length in shape:
        declared *= length  # Python integers: no overflow
    if declared > MAX_ARRAY_BYTES:
        raise SampleError(f"array {shape} of {declared} bytes; at most {MAX_ARRAY_BYTES} are read")
    if declared != stored:
        raise SampleError(f"array {shape} of {dtype} needs {declared} bytes, the file has {stored}: truncated?")
    array: np.ndarray = np.frombuffer(content, dtype, offset=stream.tell())
    return np.array(array.reshape(shape, order="F" if columns_first else "C"))


# Encoding


def encode_png(array: np.ndarray) -> bytes:
    """A PNG file of uint8 (H, W), uint16 (H, W) or uint8 (H, W, 3)."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array)).save(buffer, format="PNG")
    return buffer.getvalue()


def encode_array(array: np.ndarray) -> bytes:
    """A .npy file of any numbers."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


# Views


def view_picture(rgb: UInt8[np.ndarray, "H W 3"], view: View, size: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    """Colours through `view` at `size` (h, w): bicubic, antialiased when shrinking."""
    height, width = size
    box = view.pixels(*rgb.shape[:2])
    seen = np.asarray(Image.fromarray(rgb).resize((width, height), Image.Resampling.BICUBIC, box=box))
    return np.ascontiguousarray(seen[:, ::-1]) if view.flip else seen


def view_map(array: Shaped[np.ndarray, "H W ..."], view: View, size: tuple[int, int]) -> Shaped[np.ndarray, "h w ..."]:
    """Numbers through `view` at `size` (h, w): nearest pixel, so that values are never mixed."""
    left, top, right, bottom = view.pixels(*array.shape[:2])
    rows = _nearest(array.shape[0], top, bottom, size[0])
    columns = _nearest(array.shape[1], left, right, size[1])
    return np.asarray(array.take(rows, 0).take(columns[::-1] if view.flip else columns, 1))


_SEEN = "ih,hwc,jw->ijc"


def view_features(array: Float[np.ndarray, "H W C"], view: View, size: tuple[int, int]) -> Float[np.ndarray, "h w C"]:
    """float32 through `view` at `size` (h, w): bilinear, antialiased when shrinking. Must not hold NaN."""
    left, top, right, bottom = view.pixels(*array.shape[:2])
    rows = _triangle(array.shape[0], top, bottom, size[0])
    columns = _triangle(array.shape[1], left, right, size[1])
    columns = columns[::-1] if view.flip else columns
    path = _path(rows.shape, array.shape, columns.shape)
    return np.asarray(np.einsum(_SEEN, rows, array, columns, optimize=path), np.float32)


@lru_cache(maxsize=256)
def _path(*shapes: tuple[int, ...]) -> list[Any]:
    """The contraction order for `view_features`, cached: finding it takes longer than multiplying small maps."""
    return list(np.einsum_path(_SEEN, *map(np.empty, shapes), optimize=True)[0])


@lru_cache(maxsize=1024)  # without random crops, all samples of one size share these cached arrays
def _nearest(length: int, low: float, high: float, out: int) -> Int[np.ndarray, " out"]:
    """The source pixel under the centre of each of the `out` pixels that cover [low, high). Read-only."""
    centres = low + (np.arange(out) + 0.5) * (high - low) / out
    return np.asarray(np.clip(np.floor(centres), 0, length - 1), np.int64)


@lru_cache(maxsize=16)  # not cached: megabytes each for large maps, and never repeated with random crops
def _triangle(length: int, low: float, high: float, out: int) -> Float[np.ndarray, "out length"]:
    """Weights of a triangle filter as wide as the larger of an output and a source pixel. Read-only."""
    step = (high - low) / out
    distance = low + (np.arange(out)[:, None] + 0.5) * step - (np.arange(length)[None] + 0.5)
    weights = np.clip(1 - np.abs(distance) / max(step, 1.0), 0, None)
    # An edge pixel's centre lies up to half a pixel beyond the outermost source centres, where the weights sum to less.
    return np.asarray(weights / weights.sum(1, keepdims=True))


# Colours


def colour_map(level: Float[np.ndarray, ...]) -> UInt8[np.ndarray, "... 3"]:
    """Colours of numbers in [0, 1], dark violet to yellow ("viridis"); `NOTHING` for what is not finite."""
    at = np.linspace(0, 1, len(_VIRIDIS))
    known = np.isfinite(level)
    x = np.where(known, level, 0.0)
    colours = np.stack([np.interp(x, at, _VIRIDIS[:, c]) for c in range(3)], axis=-1)
    return np.where(known[..., None], np.rint(colours), NOTHING).astype(np.uint8)


def palette(n: int) -> UInt8[np.ndarray, "n 3"]:
    """Colours of n classes, with neighbouring ids far apart in hue; the colour of an id does not depend on n."""
    golden = 0.6180339887498949
    shades = [colorsys.hsv_to_rgb(i * golden % 1, 0.5 + 0.15 * (i % 3), 0.95 - 0.2 * (i // 3 % 2)) for i in range(n)]
    return np.asarray(np.rint(np.array(shades).reshape(n, 3) * 255), np.uint8)


# Whole data sets and examples


def common_shape(values: Sequence[Shaped[np.ndarray, ...]]) -> tuple[int, ...]:
    """The shape that all values share. Raises ValueError if there are none, or their shapes differ."""
    shapes = sorted({value.shape for value in values})
    if len(shapes) != 1:
        raise ValueError(f"values of one size are needed, seen through a view; got {len(values)} of {shapes}")
    return shapes[0]


def stack(values: Sequence[Shaped[np.ndarray, ...]]) -> Shaped[np.ndarray, "n ..."]:
    """Stack values of one size into an array. Raises ValueError if there are none, or their sizes differ."""
    common_shape(values)
    return np.stack(values)


def example_regions(n: int, seed: int) -> list[UInt8[np.ndarray, "48 64"]]:
    """`n` maps of region ids for example samples: 0 is the ground, 1 to 3 are overlapping discs and rectangles. Plugins
    that draw their examples from these are aligned with each other."""
    height, width = 48, 64
    y, x = np.mgrid[:height, :width]
    maps = []
    for index in range(n):
        rng = np.random.default_rng([seed, index])
        regions = np.zeros((height, width), np.uint8)
        for region in (1, 2, 3):
            radius = rng.uniform(0.15, 0.25) * height
            row, column = rng.uniform(radius, height - radius), rng.uniform(radius, width - radius)
            down, across = (y - row) / radius, (x - column) / radius
            inside = np.hypot(down, across) < 1 if rng.random() < 0.5 else np.maximum(abs(down), abs(across)) < 0.8
            regions[inside] = region
        maps.append(regions)
    return maps

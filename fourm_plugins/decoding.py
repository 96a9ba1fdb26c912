"""Decodes pictures, from files and from Python alike: bounded in size, turned upright, as RGB or as one channel.

Takes the bytes of untrusted files, or `PIL.Image`s; returns upright `PIL.Image`s and arrays, or raises a `SampleError`
of one line. Files and pictures from Python take the same path.
"""

from __future__ import annotations

import contextlib
import io
import warnings
import zlib
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, UnidentifiedImageError

from fourm_plugins import exif
from fourm_plugins.errors import SampleError
from fourm_plugins.notes import note

if TYPE_CHECKING:
    from jaxtyping import UInt, UInt8, UInt16
#: Pictures with more pixels are rejected from the header, before decoding.
MAX_PIXELS = 64_000_000

#: 16-bit grey pictures whose maximum is below this would appear nearly black.
DARKEST = 1 << 14
DARK = "give a map of numbers as the modality that it is, and scale a photograph to 65535"

_FORMATS = ("PNG", "JPEG", "WEBP")
_ORIENTATION = 0x0112  # the EXIF tag
#: Keys of `Image.info` that hold the orientation.
_METADATA = frozenset({"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"})
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode_picture(content: bytes) -> Image.Image:
    """The decoded picture, turned upright by its EXIF orientation. Raises `SampleError` unless the content is an
    undamaged PNG, JPEG or WebP picture of at most `MAX_PIXELS` pixels. Damaged metadata is ignored, with a note."""
    try:
        return _decode(content)
    except SampleError:
        if parts := exif.pixels_only(content):
            pixels, data = parts
            with contextlib.suppress(SampleError):
                picture, turn = _decode(pixels), exif.orientation(data)[0] if data else None
                _note_damage(turn)
                return _turned(picture, turn)
        raise


def _decode(content: bytes) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged metadata, which `upright` notes
            opened = Image.open(io.BytesIO(content), formats=_FORMATS)
        with opened as picture:
            _check_size(picture)
            if picture.format == "PNG":
                _check_sums(content)
            picture.load()
            seen = upright(picture)
            return _bare(seen.copy()) if seen is picture else seen
    except SampleError:
        raise
    # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, zlib.error and others on damaged files.
    except Exception as error:
        if isinstance(error, UnidentifiedImageError):
            raise SampleError(f"not a PNG, JPEG or WebP picture ({len(content)} bytes)") from None
        if isinstance(error, Image.DecompressionBombError):
            raise SampleError(f"picture of more pixels than the {MAX_PIXELS // 10**6} million that are read") from None
        raise SampleError(f"picture cannot be decoded: {error}") from error


def _check_sums(content: bytes) -> None:
    """Raise ValueError if the pixel data of a PNG is damaged. Pillow does not verify the checksums and would decode it
    regardless."""
    view, at, kind, pixels = memoryview(content), 8, b"", False
    while kind != b"IEND":
        length, kind, data = int.from_bytes(view[at : at + 4], "big"), bytes(view[at + 4 : at + 8]), at + 8
        if data + length + 4 > len(view):
            raise ValueError("broken PNG file (truncated)")
        at = data + length + 4
        pixels = (pixels or kind == b"IDAT") and kind != b"IEND"  # earlier chunks are checked on opening
        if pixels and zlib.crc32(view[data - 4 : at - 4]) != int.from_bytes(view[at - 4 : at], "big"):
            raise ValueError(f"broken PNG file (bad checksum in {kind!r})")


def upright(picture: Image.Image) -> Image.Image:
    """The picture, decoded and turned upright by its metadata. Raises `SampleError` for an empty, huge or undecodable
    one."""
    _check_size(picture)
    try:
        picture.load()
    except Exception as error:  # as in `_decode`; a closed file, too
        raise SampleError(f"picture cannot be decoded: {error}") from error
    return _turned(picture, _orientation(picture))


def _check_size(picture: Image.Image) -> None:
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise SampleError(f"picture of {width}x{height} pixels; at most {MAX_PIXELS // 10**6} million are read")
    if not width * height:
        raise SampleError(f"empty picture of {width}x{height} pixels")


def _turned(picture: Image.Image, turn: int | None) -> Image.Image:
    """Turn a picture upright and drop its orientation metadata, so that a second call is a no-op."""
    if turn not in _TURNS:
        return picture
    return _bare(picture.transpose(_TURNS[turn]))


def _bare(picture: Image.Image) -> Image.Image:
    picture.info = {key: value for key, value in picture.info.items() if key == "transparency"}
    return picture


def _orientation(picture: Image.Image) -> int | None:
    if not picture.info.keys() & _METADATA:  # most pictures; only metadata set from Python may turn them
        turn = picture.getexif().get(_ORIENTATION)
        return turn if isinstance(turn, int) else None
    data = picture.info.get("exif")
    with warnings.catch_warnings(record=True) as damage:
        warnings.simplefilter("always")
        try:
            turn, readable = picture.getexif().get(_ORIENTATION), True
        except Exception:  # Pillow raises many kinds on damaged data
            turn, readable = None, not isinstance(data, bytes)
    known, whole = exif.orientation(data) if isinstance(data, bytes) else (None, True)
    turn = turn if isinstance(turn, int) else known
    if damage or not readable or not whole:
        _note_damage(turn)
    return turn


def _note_damage(turn: int | None) -> None:
    seen = "turned by the orientation that is left of them" if turn else "used as it is stored, upright or not"
    note(f"the picture's metadata (EXIF) are damaged; it is {seen}")


def as_rgb(picture: Image.Image) -> UInt8[np.ndarray, "H W 3"]:
    """The RGB colours of an upright picture: grey is repeated, transparency laid over white, 16 bits reduced to 8."""
    if picture.mode.startswith("I"):
        counts = _counts(picture)
        if is_dark(counts):
            raise SampleError(f"16 bits count to 65535, this picture to {counts.max()}; {DARK}")
        return np.repeat((counts >> 8).astype(np.uint8)[..., None], 3, axis=2)
    if picture.mode == "F":
        raise SampleError("a picture of mode F holds any numbers; give colours of 8 bits (mode RGB)")
    try:
        if picture.has_transparency_data:
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA"))
        return np.asarray(picture.convert("RGB"))
    except ValueError as error:
        raise SampleError(f"a picture of mode {picture.mode} cannot be seen as RGB: {error}") from error


def is_dark(counts: UInt16[np.ndarray, "*shape"]) -> bool:
    """Whether 16-bit numbers are not brightness but, say, millimetres or ids. All zeros are a black picture."""
    return 0 < int(counts.max()) < DARKEST


def as_channel(picture: Image.Image) -> UInt[np.ndarray, "H W"]:
    """The integers of an upright one-channel picture, or one of three equal channels: uint8 (grey, or palette indices)
    or uint16."""
    if picture.mode in ("1", "L", "P"):
        return np.array(picture).astype(np.uint8)
    if picture.mode.startswith("I"):
        return _counts(picture)
    if picture.mode == "RGB" and ((channels := np.asarray(picture)) == channels[..., :1]).all():
        return np.array(channels[..., 0])
    raise SampleError(f"a map has one channel, this picture is {picture.mode}; write one number a pixel")


def _counts(picture: Image.Image) -> UInt16[np.ndarray, "H W"]:
    """uint16 of a 16-bit picture, which Pillow may store in 32 bits."""
    counts = np.asarray(picture)
    if counts.min() < 0 or counts.max() > 65535:
        raise SampleError(f"a picture of 16 bits holds 0 to 65535, this one {counts.min()} to {counts.max()}")
    return counts.astype(np.uint16)


def decode_rgb(content: bytes) -> UInt8[np.ndarray, "H W 3"]:
    """`as_rgb` of a file."""
    return as_rgb(decode_picture(content))


def decode_map(content: bytes) -> UInt[np.ndarray, "H W"]:
    """`as_channel` of a file."""
    return as_channel(decode_picture(content))


def as_png(picture: Image.Image) -> bytes:
    """A PNG file with the same pixels and orientation. Raises `SampleError` if PNG cannot store them."""
    _check_size(picture)
    if picture.mode == "F":
        raise SampleError("a picture of mode F holds any numbers, which no PNG does")
    mode = {"CMYK": "RGB", "YCbCr": "RGB", "LAB": "RGB", "HSV": "RGB", "La": "LA", "RGBa": "RGBA", "PA": "RGBA"}
    try:
        exif = picture.info.get("exif", b"")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with contextlib.suppress(Exception):  # damaged: passed on as is
                exif = picture.getexif().tobytes() if len(picture.getexif()) else exif
        picture.load()
        if picture.mode.startswith("I"):
            picture = Image.fromarray(_counts(picture))
        elif picture.mode in mode:
            picture = picture.convert(mode[picture.mode])
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", exif=exif, compress_level=1)
        return buffer.getvalue()
    except SampleError:
        raise
    except Exception as error:  # a truncated or closed file, a mode that PNG does not support
        raise SampleError(f"picture cannot be decoded: {error}") from error

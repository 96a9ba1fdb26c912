"""The metadata of PNG, JPEG and WebP files: a picture's orientation, and the file stripped of its metadata.

Reads untrusted bytes with bounds checks. Damaged metadata does not make a picture unusable.
"""

from __future__ import annotations

import struct
import zlib

_PNG = b"\x89PNG\r\n\x1a\n"
_ORIENTATION, _SHORT = 0x0112, 3  # the EXIF tag, the type of its number
#: Chunks that affect pixels although PNG calls them ancillary.
_PNG_KEPT = (b"tRNS",)
_WEBP_KEPT = (b"VP8X", b"VP8 ", b"VP8L", b"ALPH")
_WEBP_FLAGS = 0x2C  # profile, EXIF, XMP
_JPEG_KEPT = (0xE0, 0xEE)  # JFIF and Adobe, which affect colours


def orientation(exif: bytes) -> tuple[int | None, bool]:
    """(orientation in 1..8 or None, whether the first directory of the data is complete)."""
    body = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(body[:4])
    if order is None or len(body) < 8:
        return None, False
    at = struct.unpack_from(order + "I", body, 4)[0]
    if at + 2 > len(body):
        return None, False
    count, room = struct.unpack_from(order + "H", body, at)[0], (len(body) - at - 2) // 12
    turn = None
    for start in range(at + 2, at + 2 + 12 * min(count, room), 12):
        tag, kind, n, value = struct.unpack_from(order + "HHIH", body, start)
        if (tag, kind, n) == (_ORIENTATION, _SHORT, 1) and 1 <= value <= 8:
            turn = value
    return turn, count <= room


def pixels_only(content: bytes) -> tuple[bytes, bytes | None] | None:
    """(the file without its metadata, its EXIF data); None if it has no metadata, or if more than the metadata is
    damaged."""
    if content.startswith(_PNG):
        parts = _png(content)
    elif content.startswith(b"\xff\xd8"):
        parts = _jpeg(content)
    else:
        parts = _webp(content) if content[:4] == b"RIFF" and content[8:12] == b"WEBP" else None
    return parts if parts is not None and parts[0] != content else None


def _png(content: bytes) -> tuple[bytes, bytes | None] | None:
    exif: bytes | None = None
    kept, at = [_PNG], len(_PNG)
    while at + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        body = content[at + 8 : at + 8 + length]
        whole = content[at + 8 + length : at + 12 + length] == struct.pack(">I", zlib.crc32(kind + body))
        if kind[:1].isupper() or kind in _PNG_KEPT:
            if not whole:
                return None
            kept.append(content[at : at + 12 + length])
        elif kind == b"eXIf":
            exif = body
        if kind == b"IEND":
            return b"".join(kept), exif
        at += 12 + length
    return None


def _jpeg(content: bytes) -> tuple[bytes, bytes | None] | None:
    exif: bytes | None = None
    kept, at = [content[:2]], 2
    while at + 4 <= len(content) and content[at] == 0xFF:
        marker, length = content[at + 1], struct.unpack_from(">H", content, at + 2)[0]
        if marker == 0xDA or 0xD0 <= marker <= 0xD9:  # pixels begin
            return b"".join([*kept, content[at:]]), exif
        segment = content[at : at + 2 + length]
        if marker == 0xE1 and segment[4:10] == b"Exif\0\0" and exif is None:
            exif = segment[4:]
        if marker in _JPEG_KEPT or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            kept.append(segment)
        at += 2 + length
    return None


def _webp(content: bytes) -> tuple[bytes, bytes | None] | None:
    exif: bytes | None = None
    kept: list[bytes] = []
    at = 12
    while at + 8 <= len(content):
        kind, length = struct.unpack_from("<4sI", content, at)
        body = content[at + 8 : at + 8 + length]
        if kind in _WEBP_KEPT:
            if len(body) < length:
                return None
            body = bytes([body[0] & ~_WEBP_FLAGS]) + body[1:] if kind == b"VP8X" and body else body
            kept.append(struct.pack("<4sI", kind, length) + body + b"\0" * (length % 2))
        elif kind == b"EXIF":
            exif = body
        at += 8 + length + length % 2
    inner = b"WEBP" + b"".join(kept)
    return b"RIFF" + struct.pack("<I", len(inner)) + inner, exif

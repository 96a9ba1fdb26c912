"""Files that lie about what they hold, and what each is given to. As a program: reads them all within 400 MB more than
the imports take, and says which did not end in an error: `python hostile_files.py FOLDER`."""

from __future__ import annotations

import io
import json
import os
import resource
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from fourm_plugins import SampleError, images
from fourm_plugins.manager import PluginManager

ROOM = 400 << 20


def png(width: int, height: int, *chunks: tuple[bytes, bytes], bits: int = 8, colour: int = 0) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = [b"\x89PNG\r\n\x1a\n"]
    for name, data in ((b"IHDR", header), *chunks, (b"IEND", b"")):
        parts.append(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)))
    return b"".join(parts)


def jpeg(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "JPEG")
    content = buffer.getvalue()
    at = content.index(b"\xff\xc0") + 5
    return content[:at] + struct.pack(">HH", height, width) + content[at + 4 :]


def webp(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGBA", (16, 16)).save(buffer, "WEBP", xmp=b"x", lossless=True)
    content = bytearray(buffer.getvalue())
    at = content.index(b"VP8X") + 12
    content[at : at + 6] = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    return bytes(content)


def npy(shape: str, body: bytes = b"", *, dtype: str = "'<f4'") -> bytes:
    header = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body


class Evil:
    """Its pickle leaves a mark when it is loaded."""

    def __reduce__(self):
        return os.system, ("touch owned",)


def pickled_array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([[Evil()]], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def noise(fmt: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(buffer, fmt)
    return buffer.getvalue()


LINES = zlib.compress(bytes(64 * 65))
ZEROS = zlib.compress(bytes(200 << 20), 9)

PICTURES: dict[str, bytes] = {
    "png of 60,000 x 60,000": png(60_000, 60_000, (b"IDAT", LINES)),
    "png of 2^31 x 2^31": png((1 << 31) - 1, (1 << 31) - 1, (b"IDAT", LINES)),
    "png of no pixels": png(0, 0, (b"IDAT", LINES)),
    "png of 7,000 x 9,000 that ends at once": png(7000, 9000, (b"IDAT", LINES)),
    "png with a colour profile of 200 MB": png(64, 64, (b"iCCP", b"a\0\0" + ZEROS), (b"IDAT", zlib.compress(b""))),
    "jpeg of 60,000 x 60,000": jpeg(60_000, 60_000),
    "webp of 16,383 x 16,383": webp(16_383, 16_383),
    "half a png": noise("PNG")[:4000],
    "half a jpeg": noise("JPEG")[:1000],
    "half a webp": noise("WEBP")[:1000],
    "a pickle": b"\x80\x04K\x01.",
    "a page": b"<svg xmlns='http://www.w3.org/2000/svg' width='10' height='10'/>",
    "nothing": b"",
}
#: Whole pixels beside metadata that are a bomb: read without them.
WHOLE: dict[str, bytes] = {
    "png with text of 200 MB": png(64, 64, (b"zTXt", b"a\0\0" + ZEROS), (b"IDAT", LINES)),
    "png with international text of 200 MB": png(64, 64, (b"iTXt", b"a\0\1\0\0\0" + ZEROS), (b"IDAT", LINES)),
}
ARRAYS: dict[str, bytes] = {
    "pickled objects": pickled_array(),
    "objects without a pickle": npy("(2, 2)", bytes(32), dtype="'|O'"),
    "a terabyte": npy("(1048576, 262144)"),
    "more than 2^64": npy(f"({1 << 40}, {1 << 40})"),
    "negative sides": npy("(-2, -3)", bytes(24)),
    "a record": npy("(1, 1)", bytes(8), dtype="[('a', '<f4'), ('b', '<f4')]"),
    "an expression": npy("(__import__('os').system('touch owned'), 1)"),
    "nested without end": npy("(" * 60 + ")" * 30),
    "a header of 4 GB": b"\x93NUMPY\x02\x00" + struct.pack("<I", (1 << 32) - 1) + b"{'descr'",
    "nothing": b"",
}
BOXES: dict[str, bytes] = {
    "100,000 brackets": b"[" * 100_000,
    "10 million entries": b"[" + b"{}," * 10_000_000 + b"{}]",
    "200,000 empty lists": b"[" + b"[]," * 200_000 + b"[]]",
    "a label of a million characters": json.dumps([{"label": "a=" * 500_000, "bbox": [0, 0, 1, 1]}]).encode(),
    "numbers without end": b'[{"label": "a", "bbox": [' + b"9" * 1_000_000 + b", 0, 1, 1]}]",
    "numbers that are none": b'[{"label": "a", "bbox": [NaN, 0, Infinity, 1]}]',
    "a type to make": b'[{"__class__": "canary.Evil", "py/object": "canary.Evil"}]',
}
CAPTIONS: dict[str, bytes] = {
    "100 MB": b"a " * (50 << 20),
    "one line of 1 MB": b"a" * 999_000,
    "no text": b"\xff\xfe\x00\x01",
    "NUL": b"a\0b",
    "blank": b" \n" * 1000,
}


def readers() -> dict[str, tuple[dict[str, bytes], Callable[[bytes], object]]]:
    """What is read -> (the files, their reader)."""
    manager = PluginManager()
    boxes, caption = manager.modality("boxes"), manager.modality("caption")
    return {
        "picture": (PICTURES, images.decode_rgb),
        "map": (PICTURES, images.decode_map),
        "array": (ARRAYS, lambda content: images.decode_array(content, ndim=2)),
        "boxes": (BOXES, lambda content: boxes.read({"json": content})),
        "caption": (CAPTIONS, lambda content: caption.read({"txt": content})),
    }


def main() -> None:
    cases = readers()
    status = Path("/proc/self/status").read_text().splitlines()
    used = int(next(line for line in status if line.startswith("VmSize")).split()[1]) << 10
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))
    bad = [f"{what}: misread" for what, content in WHOLE.items() if images.decode_map(content).shape != (64, 64)]
    for kind, (files, read) in cases.items():
        for what, content in files.items():
            try:
                read(content)
                bad.append(f"{kind}, {what}: was read")
            except SampleError as error:
                if "memory" in str(error).lower():
                    bad.append(f"{kind}, {what}: {error}")
    Path(sys.argv[1], "bad.json").write_text(json.dumps(bad))


if __name__ == "__main__":
    main()

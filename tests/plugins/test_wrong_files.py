"""Files that cannot be used: each is refused with the reason, none is read wrongly."""

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from fourm_plugins import SampleError
from tests.plugins.instances import CLASSES, modality, npy, png


def huge():
    """A PNG whose header declares 60000 x 60000 pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


NOISE = np.random.default_rng(0).integers(0, 255, (40, 40), np.uint8)
UNSIGNED = np.full((8, 8), 900, np.uint16)
COLOUR = np.stack([NOISE, 255 - NOISE, NOISE], axis=2)
GOOD = {"rgb": png(COLOUR), "depth": png(UNSIGNED), "normal": png(COLOUR), "semseg": png(NOISE % 3)}
JPEG = io.BytesIO()
Image.fromarray(COLOUR).save(JPEG, "JPEG")
BAD = [
    *[(name, "png", content[: len(content) * 2 // 3], "truncated|decoded") for name, content in GOOD.items()],
    *[(name, "png", huge(), "pixel") for name in GOOD],
    *[(name, "png", b"", "not a PNG") for name in GOOD],
    *[(name, "png", b"\x89PNG\r\n\x1a\n" + b"\1" * 40, "PNG|decoded") for name in GOOD],
    ("rgb", "jpg", JPEG.getvalue()[:-200], "truncated"),
    ("rgb", "gif", GOOD["rgb"], "no file of .png, .jpg"),
    ("depth", "npy", npy(np.full((8, 8), np.nan, np.float32)), "no pixel holds a depth"),
    ("depth", "npy", npy(np.where(np.eye(8) > 0, -1.5, 2)), "-1.5 m at row 0, column 0"),
    ("depth", "npy", npy(np.ones((8, 8, 3))), "2 dimensions"),
    ("depth", "npy", npy(np.ones((8, 8)))[:-9], "truncated"),
    ("depth", "npy", b"PK\3\4 not an array", "not a .npy"),
    ("depth", "npy", npy(np.array([[{}]], dtype=object)), "numbers"),
    ("depth", "png", png(np.zeros((8, 8), np.uint16)), "no pixel holds a depth"),
    ("depth", "png", png(NOISE), "16 bits"),
    ("depth", "png", png(COLOUR), "one channel"),
    ("normal", "png", png(NOISE), "three channels"),
    ("normal", "png", png(np.zeros((8, 8, 3), np.uint8)), "no pixel holds a normal"),
    ("semseg", "png", png(np.where(np.eye(8) > 0, 3, 140).astype(np.uint8)), "id 140 at row 0, column 1"),
    ("semseg", "png", png(np.full((8, 8), 255, np.uint8)), "no pixel has a class"),
    ("semseg", "png", png(COLOUR), "one channel"),
    ("caption", "txt", b"", "empty caption"),
    ("caption", "txt", b" \n\t\n", "empty caption"),
    ("caption", "txt", b"\xff\xfe\x00", "UTF-8"),
    ("caption", "txt", b"a\0b", "NUL"),
    ("caption", "txt", b"word " * 2000, "characters"),
    ("caption", "txt", b"w\n" * 600_000, "bytes"),
    ("boxes", "json", b"[{]", "not JSON"),
    ("boxes", "json", b"[" * 100_000, "not JSON"),
    ("boxes", "json", b"\xff", "not JSON"),
    ("boxes", "json", b"{}", "list"),
    ("boxes", "json", b"[1]", "box 0 has no label"),
    ("boxes", "json", b'[{"label": " ", "bbox": [0, 0, 1, 1]}]', "no label"),
    ("boxes", "json", b'[{"label": "a", "bbox": [0, 0, 1]}]', "four numbers"),
    ("boxes", "json", b'[{"label": "a", "bbox": [0, 0, 1, NaN]}]', "four numbers"),
    ("boxes", "json", b'[{"label": "a", "bbox": [0, 0, 1, 1' + b"0" * 400 + b"]}]", "four numbers"),
    ("boxes", "json", b'[{"label": "a", "bbox": [0, 0, 120, 40]}]', "outside the picture"),
    ("boxes", "json", b'[{"label": "a", "bbox": [0.5, 0, 0.2, 1]}]', "no extent"),
    ("boxes", "json", b'[{"label": "a=b", "bbox": [0, 0, 1, 1]}]', "'='"),
    ("boxes", "json", b'[{"label": "a", "bbox": [0, 0, 1, 1], "score": "x"}]', "score"),
    ("clip", "npy", npy(np.ones((4, 4, 5), np.float32)), "5 channels"),
    ("clip", "npy", npy(np.full((4, 4, 16), np.inf, np.float16)), "row 0, column 0"),
    ("clip", "npy", npy(np.zeros((4, 4, 16), np.float16)), "zero in all channels"),
    ("clip", "npy", npy(np.ones((4, 4), np.float32)), "3 dimensions"),
]


@pytest.mark.parametrize(("name", "extension", "content", "reason"), BAD, ids=lambda x: x if isinstance(x, str) else "")
def test_a_wrong_file_is_refused_with_its_reason_in_one_line(name, extension, content, reason):
    with pytest.raises(SampleError, match=reason) as caught:
        modality(name).read({extension: content})
    assert len(str(caught.value).splitlines()) == 1


def test_a_header_of_numpy_that_declares_more_than_memory_is_refused_before_it_is_taken():
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": (10**6, 10**6)})
    with pytest.raises(SampleError, match="at most"):
        modality("depth").read({"npy": buffer.getvalue()})


def test_two_files_of_one_sample_are_ambiguous():
    with pytest.raises(SampleError, match=r"both .png and .npy"):
        modality("depth").read({"png": GOOD["depth"], "npy": npy(np.ones((8, 8)))})


def test_damaged_bytes_never_raise_anything_but_a_sample_error():
    rng = np.random.default_rng(0)
    samples = [(name, next(iter(modality(name).example_samples(1, 0)[0].items()))) for name in CLASSES]
    for name, (extension, content) in samples:
        plugin = modality(name)
        for _ in range(25):
            damaged = bytearray(content)
            for at in rng.integers(0, len(damaged), 4):
                damaged[at] = rng.integers(0, 256)
            with contextlib.suppress(SampleError):
                plugin.read({extension: bytes(damaged[: rng.integers(1, len(damaged) + 1)])})

"""`Modality.value`: whatever a user holds means what the same file means, or is refused in one sentence."""

import io
import json
import logging
import struct
import zlib

import numpy as np
import pytest
import torch
from fourm_boxes import Box
from PIL import Image

from fourm_plugins import SampleError, decoding, notes
from tests.plugins.instances import CLASSES, modality, npy, png
from tests.trust import hostile_files


def encode(picture, form="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def opened(content):
    return Image.open(io.BytesIO(content))


def same(a, b):
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    return a == b


RGB = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
DEPTH = np.where(np.eye(6, 9) > 0, 0, 900 + 7 * np.arange(54).reshape(6, 9)).astype(np.uint16)
IDS = np.where(np.eye(6, 9) > 0, 255, np.arange(54).reshape(6, 9) % 3).astype(np.uint8)
TURNED = Image.Exif()
TURNED[0x0112] = 6
PICTURES = {
    "rgb": [
        encode(Image.fromarray(RGB), exif=TURNED),
        encode(Image.fromarray(RGB), "JPEG", quality=90, exif=TURNED),
        encode(Image.fromarray(RGB), "WEBP", exif=TURNED),
        encode(Image.fromarray(np.dstack([RGB, RGB[..., 0]]))),
        encode(Image.fromarray(RGB).quantize(8), transparency=3),
        encode(Image.fromarray(RGB[..., 0])),
        encode(Image.fromarray(np.dstack([RGB[..., 0], RGB[..., 1]]), "LA")),
        encode(Image.fromarray(DEPTH * 60)),
        encode(Image.fromarray(RGB).convert("CMYK"), "JPEG"),
        encode(Image.fromarray(RGB[..., 0] > 99)),
    ],
    "depth": [encode(Image.fromarray(DEPTH)), encode(Image.fromarray(DEPTH), exif=TURNED)],
    "normal": [encode(Image.fromarray(RGB)), encode(Image.fromarray(RGB), exif=TURNED)],
    "semseg": [encode(Image.fromarray(IDS)), encode(Image.fromarray(IDS), exif=TURNED)],
}
FILES = [(name, content) for name, contents in PICTURES.items() for content in contents]


@pytest.mark.parametrize(("name", "content"), FILES, ids=[f"{n}-{i}" for i, (n, _) in enumerate(FILES)])
def test_a_picture_means_the_same_as_path_bytes_and_pil_image(name, content, tmp_path):
    extension = opened(content).format.lower()
    truth = modality(name).read({extension: content})
    (tmp_path / f"x.{extension}").write_bytes(content)
    for given in (tmp_path / f"x.{extension}", str(tmp_path / f"x.{extension}"), content, bytearray(content)):
        assert same(modality(name).value(given), truth)
    assert same(modality(name).value(opened(content)), truth)
    picture = opened(content)
    picture.load()
    assert same(modality(name).value(picture), truth)
    assert same(modality(name).value(truth), truth)


@pytest.mark.parametrize("name", CLASSES)
def test_every_example_comes_by_the_door_unchanged(name, tmp_path):
    each = modality(name)
    (files,) = each.example_samples(1, 0)
    ((extension, content),) = files.items()
    truth = each.read(files)
    (tmp_path / f"x.{extension}").write_bytes(content)
    assert same(each.value(tmp_path / f"x.{extension}"), truth)
    assert same(each.value(content), truth)
    assert same(each.value(truth), truth)
    if isinstance(truth, np.ndarray):
        assert same(each.value(torch.from_numpy(truth)), truth)
        assert same(each.value(truth[:, ::-1][:, ::-1]), truth)


FLOATS = RGB / 255
GREY = DEPTH * 50  # up to nearly 65535
METRES = np.where(DEPTH > 0, DEPTH / 1000, np.nan)
UNIT = np.dstack([np.zeros((6, 9)), np.full((6, 9), 0.6), np.full((6, 9), 0.8)]).astype(np.float32)
MEANT = [
    ("rgb", RGB.transpose(2, 0, 1), RGB),
    ("rgb", torch.from_numpy(RGB).permute(2, 0, 1), RGB),
    ("rgb", FLOATS, RGB),
    ("rgb", torch.from_numpy(FLOATS).float().requires_grad_(), RGB),
    ("rgb", RGB[..., 0], RGB[..., :1].repeat(3, 2)),
    ("rgb", RGB[..., :1], RGB[..., :1].repeat(3, 2)),
    ("rgb", np.dstack([RGB, np.full((6, 9), 255, np.uint8)]), RGB),
    ("rgb", np.dstack([RGB, np.zeros((6, 9), np.uint8)]), np.full_like(RGB, 255)),
    ("rgb", RGB.astype(np.uint16) * 257, RGB),
    ("rgb", np.asarray(opened(encode(Image.fromarray(GREY)))), (GREY >> 8).astype(np.uint8)[..., None].repeat(3, 2)),
    ("depth", METRES, METRES.astype(np.float32)),
    ("depth", np.nan_to_num(METRES), METRES.astype(np.float32)),
    ("depth", METRES[..., None], METRES.astype(np.float32)),
    ("depth", torch.from_numpy(METRES)[None], METRES.astype(np.float32)),
    ("depth", METRES.astype(">f8"), METRES.astype(np.float32)),
    ("depth", np.ma.masked_invalid(METRES), METRES.astype(np.float32)),
    ("depth", torch.full((2, 2), 1.5, dtype=torch.bfloat16), np.full((2, 2), 1.5, np.float32)),
    ("depth", Image.fromarray(np.nan_to_num(METRES).astype(np.float32)), METRES.astype(np.float32)),
    ("normal", UNIT.transpose(2, 0, 1), UNIT),
    ("normal", RGB, modality("normal").read({"png": png(RGB)})),
    ("semseg", IDS, modality("semseg").read({"png": png(IDS)})),
    ("semseg", IDS[None].astype(np.int64), modality("semseg").read({"png": png(IDS)})),
    ("semseg", torch.from_numpy(IDS), modality("semseg").read({"png": png(IDS)})),
    ("caption", "two  cats", ("two cats",)),
    ("caption", ["a cat", "a dog"], ("a cat", "a dog")),
    ("caption", "a cat\nand a dog", ("a cat and a dog",)),
    ("boxes", [], []),
    ("boxes", {"label": "cat", "bbox": [0, 0, 0.5, 1]}, [Box("cat", 0, 0, 0.5, 1)]),
    ("boxes", '[{"label": "cat", "bbox": [0, 0, 0.5, 1]}]', [Box("cat", 0, 0, 0.5, 1)]),
    (
        "boxes",
        [("cat", 0, 0, 0.5, 1), ("dog", (0, 0, 1, 1), 0.5)],
        [Box("cat", 0, 0, 0.5, 1), Box("dog", 0, 0, 1, 1, 0.5)],
    ),
    ("boxes", [{"label": "cat", "bbox": torch.tensor([0, 0, 0.5, 1])}], [Box("cat", 0, 0, 0.5, 1)]),
    ("boxes", [{"label": "cat", "bbox": np.array([0, 0, 0.5, 1])}], [Box("cat", 0, 0, 0.5, 1)]),
]


@pytest.mark.parametrize(("name", "given", "value"), MEANT, ids=[f"{n}-{i}" for i, (n, _, _) in enumerate(MEANT)])
def test_what_is_plainly_meant_is_taken(name, given, value):
    assert same(modality(name).value(given), value)


def test_typed_boxes_are_those_that_the_model_writes():
    boxes = modality("boxes")
    bins = boxes.settings.text.coordinate_bins
    (found,) = boxes.value("v0=1 v1=1 v2=20 v3=20 cat")
    assert found == Box("cat", 1 / (bins - 1), 1 / (bins - 1), 20 / (bins - 1), 20 / (bins - 1))
    assert boxes.value(boxes.normalise([found])) == [found]


REFUSED = [
    ("rgb", FLOATS * 255, "floats are 0 to 1"),
    ("rgb", RGB.astype(np.int64), r"uint8 \(H, W, 3\).*given: int64 \(6, 9, 3\)"),
    ("rgb", RGB.astype(np.uint16), "16 bits count to 65535"),
    ("rgb", DEPTH, "16 bits count to 65535, this picture to 1271; give a map of numbers as the modality that it is"),
    ("rgb", RGB.tolist(), "uint8.*a list of 6 list"),
    ("rgb", RGB[None], "a batch; give one sample"),
    ("rgb", RGB[:, :, [0] * 5], r"given: uint8 \(6, 9, 5\)"),
    ("rgb", np.zeros((0, 0, 3), np.uint8), r"empty.*\(0, 0, 3\)"),
    ("rgb", Image.new("RGB", (0, 4)), "empty picture"),
    ("rgb", np.full((4, 4, 3), np.nan), "nothing but NaN"),
    ("rgb", np.zeros((4, 4, 3), complex), "not an array of numbers"),
    ("rgb", np.array([[{}]], object), "not an array of numbers"),
    ("rgb", Image.fromarray(FLOATS[..., 0].astype(np.float32)), "mode F"),
    ("rgb", "nowhere.png", "no such file: nowhere.png"),
    ("rgb", ".", "is a folder"),
    ("rgb", "/dev/null", r"/dev/null is a device or pipe; give a file \(.png"),
    (
        "rgb",
        hostile_files.PICTURES["png of 60,000 x 60,000"],
        "picture of more pixels than the 64 million that are read",
    ),
    ("rgb", __file__, "expected a file that ends in .png"),
    ("rgb", None, "given: None"),
    ("rgb", npy(np.zeros(3)), "bytes of a .npy file"),
    ("rgb", b"", "no bytes"),
    ("rgb", torch.zeros(3, 4, 4, device="meta"), "cannot be made"),
    ("depth", DEPTH, r"metres as floats.*given: uint16 \(6, 9\)"),
    ("depth", -METRES, "metres are positive"),
    ("depth", np.full((4, 4), np.inf), "no pixel holds a depth"),
    ("depth", Image.fromarray(RGB[..., 0]), "16 bits, this one has 8"),
    ("depth", Image.fromarray(RGB), "one channel"),
    ("normal", FLOATS, "length"),
    ("normal", UNIT[..., 0], r"unit vectors.*given: float32 \(6, 9\)"),
    ("semseg", np.full((4, 4), 200), "class id 200"),
    ("semseg", IDS.astype(np.float32), "ids are integers"),
    ("semseg", np.eye(6)[IDS % 6], "argmax"),
    ("semseg", np.full((4, 4), 255), "no pixel has a class"),
    ("caption", 5, "a text.*given: int 5"),
    ("caption", " ", "empty caption"),
    ("caption", [], "empty caption"),
    ("caption", [b"a"], "a list of 1 bytes"),
    ("caption", "gone.txt", "no such file"),
    ("caption", np.zeros(4, np.int64), "no text"),
    ("boxes", np.zeros((2, 4)), "labels"),
    ("boxes", [{"label": "cat"}], "needs bbox"),
    ("boxes", [{"label": "cat", "bbox": [0, 0, 120, 40]}], "outside the picture"),
    ("boxes", "a cat on the left", "type `v0="),
    ("boxes", "[{]", "not JSON"),
    ("boxes", "gone.json", "no such file"),
    ("clip", np.zeros((4, 4, 5), np.float32), "5 channels"),
]


@pytest.mark.parametrize(("name", "given", "reason"), REFUSED, ids=[f"{n}-{i}" for i, (n, _, _) in enumerate(REFUSED)])
def test_what_cannot_be_meant_is_refused_in_one_sentence(name, given, reason):
    with pytest.raises(SampleError, match=reason) as caught:
        modality(name).value(given)
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_that_is_not_there_is_told_beside_the_one_that_may_be_meant(tmp_path):
    (tmp_path / "kitchen.png").touch()
    for typed, end in (("kitchn.png", rf"; did you mean {tmp_path}/kitchen\.png\?"), ("garden.png", "")):
        with pytest.raises(SampleError, match=rf"no such file: {tmp_path / typed}{end}$"):
            modality("rgb").value(tmp_path / typed)


def test_a_row_of_a_table_is_a_mapping_of_any_numbers(tmp_path):
    from fourm_plugins.bases import Column, ScalarVector

    class Station(ScalarVector):
        gaps = True

    station = Station(
        "station", columns=(Column(name="warmth", lowest=-20, highest=40), Column(name="wind", lowest=0, highest=9))
    )
    row = {"warmth": 10.0, "wind": 4.0}
    for given in ({"warmth": np.float32(10), "wind": torch.tensor(4)}, json.dumps(row), json.dumps(row).encode(), row):
        assert station.value(given) == row
    assert station.value({"warmth": 10, "wind": np.nan})["warmth"] == 10
    with pytest.raises(SampleError, match=r"'warmth', 'wind'.*given: float64 \(2,\)"):
        station.value(np.array([10.0, 4.0]))


def test_integers_in_a_file_are_no_metres_either():
    with pytest.raises(SampleError, match="integers may be millimetres"):
        modality("depth").read({"npy": npy(DEPTH)})
    with pytest.raises(SampleError, match="integers may be millimetres"):
        modality("depth").normalise(DEPTH.astype(np.int32))


@pytest.mark.parametrize("name", ["depth", "normal", "semseg"])
def test_the_pixels_of_a_map_normalise_to_what_its_file_does(name):
    content = PICTURES[name][0]
    pixels = np.asarray(opened(content))
    assert same(modality(name).normalise(pixels), modality(name).normalise(modality(name).read({"png": content})))


def test_a_picture_that_is_too_large_is_not_decoded(monkeypatch):
    monkeypatch.setattr(decoding, "MAX_PIXELS", 53)
    for given in (opened(encode(Image.fromarray(RGB))), encode(Image.fromarray(RGB))):
        with pytest.raises(SampleError, match="9x6"):
            modality("rgb").value(given)


# Damaged metadata


def chunk(kind, body, *, sum_=True):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body) ^ (not sum_))


def with_exif(form, body, **options):
    """A whole picture with these bytes as its EXIF data."""
    if form == "PNG":
        content = encode(Image.fromarray(RGB))
        return content[:33] + chunk(b"eXIf", body.removeprefix(b"Exif\0\0"), **options) + content[33:]
    if form == "JPEG":
        content = encode(Image.fromarray(RGB), "JPEG", quality=95)
        return content[:2] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + content[2:]
    return encode(Image.fromarray(RGB), "WEBP", lossless=True, exif=body)


HEAD = b"Exif\0\0II*\0\x08\0\0\0"
UP = b"\x12\x01\x03\0\x01\0\0\0\x06\0\0\0"
DAMAGED = [
    (b"Exif\0\0this is no TIFF header", False),
    (HEAD + b"\x05\0\x12\x01", False),
    (b"Exif\0\0MM\0*\xff\xff\xff\xff", False),
    (HEAD + b"\x05\0" + UP + b"\x0f\x01", True),  # the orientation is whole, what follows is torn
]


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize(("body", "known"), DAMAGED)
def test_a_picture_with_damaged_metadata_is_used_upright_as_far_as_known_and_one_line_says_so(
    form, body, known, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr(notes, "_logged", set())
    path = tmp_path / f"x.{form.lower()}"
    path.write_bytes(with_exif(form, body))
    whole = modality("rgb").value(with_exif(form, b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"))
    with caplog.at_level(logging.WARNING):
        value = modality("rgb").value(path)
        assert same(value, np.rot90(whole, -1) if known else whole)
        assert same(modality("rgb").value(path), value)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"{path}: the picture's metadata (EXIF) are damaged")
    assert same(modality("rgb").value(Image.open(path)), value)


def test_a_png_whose_metadata_fail_their_checksum_is_used(caplog, monkeypatch):
    monkeypatch.setattr(notes, "_logged", set())
    content = with_exif("PNG", HEAD + b"\x01\0" + UP + b"\0\0\0\0", sum_=False)
    assert same(modality("rgb").value(content), np.rot90(RGB, -1))
    assert len(caplog.records) == 1
    text = encode(Image.fromarray(RGB))
    assert same(modality("rgb").value(text[:33] + chunk(b"tEXt", b"a\0b", sum_=False) + text[33:]), RGB)


def test_damaged_pixels_are_still_refused():
    content = bytearray(with_exif("PNG", HEAD + b"\x05\0\x12\x01"))
    content[-30] ^= 4
    with pytest.raises(SampleError, match="decoded"):
        modality("rgb").value(bytes(content))

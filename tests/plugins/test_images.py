"""The SDK's helpers for pictures."""

import io

import numpy as np
import pytest
from fourm_normal import Normal
from fourm_rgb import RGB
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fourm_plugins import SampleError, View, decoding, images


def encode(picture, form="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright_by_their_exif_orientation(orientation):
    upright = np.zeros((6, 10, 3), np.uint8)
    upright[0, :] = 250
    upright[0, 0] = [250, 0, 0]
    # What a camera stores is the inverse of the turn that shows it upright.
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = Image.fromarray(upright)
    if orientation in undo:
        stored = stored.transpose(undo[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(images.decode_rgb(encode(stored, exif=exif)), upright)


def test_grey_palette_transparent_and_16_bit_pictures_become_rgb():
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    assert np.array_equal(images.decode_rgb(encode(Image.fromarray(grey)))[..., 1], grey)
    wide = images.decode_rgb(encode(Image.fromarray(grey.astype(np.uint16) * 1024)))
    assert np.array_equal(wide[..., 2], grey * 4)
    clear = np.zeros((8, 8, 4), np.uint8)
    clear[:4, :, 3] = 255
    assert images.decode_rgb(encode(Image.fromarray(clear)))[[0, 7], 0].tolist() == [[0, 0, 0], [255, 255, 255]]
    indexed = Image.fromarray(grey % 3).convert("P")
    assert np.array_equal(images.decode_map(encode(indexed)).shape, (8, 8))


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_png_with_one_damaged_bit_is_refused_rather_than_read_wrongly(share):
    content = bytearray(encode(Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40), np.uint8))))
    content[int(share * len(content))] ^= 4
    with pytest.raises(SampleError, match="decoded"):
        images.decode_map(bytes(content))


def test_a_picture_over_the_limit_is_refused_by_its_header(monkeypatch):
    content = encode(Image.new("L", (30, 20)))
    monkeypatch.setattr(decoding, "MAX_PIXELS", 599)
    with pytest.raises(SampleError, match="30x20"):
        images.decode_picture(content)


def test_the_whole_view_at_the_same_size_changes_nothing():
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 255, (12, 20, 3), np.uint8)
    assert np.array_equal(images.view_picture(rgb, View(), (12, 20)), rgb)
    assert np.array_equal(images.view_map(rgb, View(), (12, 20)), rgb)
    assert np.allclose(images.view_features(rgb.astype(np.float32), View(), (12, 20)), rgb)


@given(st.integers(1, 12), st.integers(1, 12), st.booleans())
def test_flipping_a_view_mirrors_what_it_shows(height, width, flip):
    array = np.random.default_rng(0).normal(size=(9, 7, 2)).astype(np.float32)
    view, mirrored = View(0.1, 0.2, 0.5, 0.6, flip), View(0.1, 0.2, 0.5, 0.6, not flip)
    for see in (images.view_map, images.view_features):
        assert np.allclose(see(array, view, (height, width)), see(array, mirrored, (height, width))[:, ::-1])


@given(st.integers(1, 12), st.integers(1, 12), st.floats(0, 0.5), st.floats(0.1, 0.5))
def test_features_are_resampled_as_pillow_does(height, width, corner, side):
    array = np.random.default_rng(1).normal(size=(9, 11)).astype(np.float32)
    view = View(corner, corner, side, side)
    box = view.pixels(9, 11)
    expected = np.asarray(Image.fromarray(array).resize((width, height), Image.Resampling.BILINEAR, box=box))
    assert np.allclose(images.view_features(array[..., None], view, (height, width))[..., 0], expected, atol=1e-5)


def test_maps_take_the_nearest_pixel_and_mix_nothing():
    array = np.arange(16).reshape(4, 4)
    assert images.view_map(array, View(), (2, 2)).tolist() == [[5, 7], [13, 15]]
    assert set(images.view_map(array, View(0.1, 0.3, 0.77, 0.61, True), (9, 7)).ravel()) <= set(range(16))


def test_colours_of_nothing_are_black_and_classes_keep_theirs():
    assert images.colour_map(np.array([np.nan, 0, 1])).tolist() == [[0, 0, 0], [68, 1, 84], [253, 231, 37]]
    assert np.array_equal(images.palette(200)[:20], images.palette(20))
    assert len(np.unique(images.palette(60), axis=0)) == 60


def test_stored_normals_are_what_the_obvious_formula_gives_bit_for_bit():
    stored = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    stored[:5], stored[5:9] = 0, 127  # no normal, and too short for one
    vectors = stored.astype(np.float32) / 127.5 - 1
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    known = stored.any(-1, keepdims=True) & (length > 0.5)
    expected = np.where(known, vectors / np.maximum(length, 0.5), np.float32(np.nan))
    normal = Normal("normal", image_size=32, patch_size=8)
    assert normal.read({"png": images.encode_png(stored)}).tobytes() == expected.tobytes()


def test_a_grey_picture_of_16_bits_is_a_photograph_only_if_it_is_not_nearly_black():
    grey = np.arange(64, dtype=np.uint16).reshape(8, 8)
    for factor in (100, 1):  # millimetres, ids
        with pytest.raises(SampleError, match=r"16 bits count to 65535, this picture to .*; give a map of numbers as"):
            images.decode_rgb(encode(Image.fromarray(grey * factor)))
    assert images.decode_rgb(encode(Image.fromarray(grey * 1000))).max() == 63000 >> 8
    assert not images.decode_rgb(encode(Image.fromarray(grey * 0))).any()


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        (Image.fromarray(np.repeat(np.arange(8, dtype=np.uint8), 8).reshape(8, 8)), "grey of 0 to 7"),
        (Image.fromarray(np.repeat(np.arange(8, dtype=np.uint8) % 3, 8).reshape(8, 8)).convert("P"), None),
        (Image.fromarray(np.repeat(np.arange(8, dtype=np.uint8) * 20, 8).reshape(8, 8)), None),  # brighter
        (Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) % 5), None),  # not flat
    ],
)
def test_a_map_of_ids_given_as_a_picture_is_told(picture, said, caplog, monkeypatch):
    monkeypatch.setattr("fourm_plugins.notes._logged", set())
    if picture.mode == "P":  # indices, with colours of their own
        picture.putpalette([10, 20, 30, 200, 0, 0, 0, 200, 0])
        said = "a palette of which the first 3 colours are used"
    RGB("rgb").from_picture(picture)
    remedy = "it looks like a map of ids, and is used as a picture; give a map as the modality that it is"
    assert caplog.messages == ([] if said is None else [f"{said}: {remedy}"])

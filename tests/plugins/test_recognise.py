"""Plugins recognise their files by content, and leave those of others alone."""

from __future__ import annotations

import json

import numpy as np
import pytest
from fourm_depth import Depth
from fourm_normal import Normal
from fourm_semseg import SemSeg

from fourm_plugins.errors import SampleError
from tests.folders import noisy
from tests.plugins.instances import CLASSES, modality, npy, png

PICTURES = [{"png": png(noisy(seed))} for seed in range(4)]
SMOOTH = np.linspace(0.8, 7.9, 48 * 64).reshape(48, 64)


def examples(name):
    return PICTURES if name.startswith("rgb") else modality(name).example_samples(4, seed=0)


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_each_recognises_its_own_files_best_and_the_settings_read_them(name):
    scores = {}
    for other, cls in CLASSES.items():
        recognised = cls.recognise(examples(name))
        scores[other] = recognised.score if recognised else 0.0
    best = {other for other in scores if scores[other] == max(scores.values())}
    assert best == ({"rgb", "rgb@pixels"} if name.startswith("rgb") else {name})
    recognised = CLASSES[name].recognise(examples(name))
    made = CLASSES[name](name, **{key: value for key, (value, _) in recognised.settings.items()})
    assert all(made.read(files) is not None for files in examples(name))
    assert all(why and "\n" not in why for _, why in recognised.settings.values())


def of(name, samples):
    recognised = CLASSES[name].recognise(samples)
    return recognised and {key: value for key, (value, _) in recognised.settings.items()}


def test_classes_are_counted_and_the_id_of_no_class_is_told():
    ids = np.zeros((32, 32), np.uint8)
    ids[:8], ids[8:16] = 7, 255
    assert of("semseg", [{"png": png(ids)}]) == {"num_classes": 8, "ignore": 255}
    mask = np.zeros((32, 32), np.uint8)
    mask[:16] = 255  # a mask of two classes, not one class and none
    assert of("semseg", [{"png": png(mask)}]) == {"file_ids": [0, 255], "num_classes": 2, "ignore": None}
    coloured = np.repeat(mask[..., None], 3, 2)
    assert of("semseg", [{"png": png(coloured)}]) == of("semseg", [{"png": png(mask)}])
    assert of("semseg", [{"png": png(mask > 0)}]) == {"num_classes": 2}  # of 1 bit
    mask[:8] = 128  # grey between black and white is as much a class as these
    assert of("semseg", [{"png": png(mask)}]) == {"file_ids": [0, 128, 255], "num_classes": 3, "ignore": None}
    assert of("semseg", [{"png": png(ids.astype(np.uint16) * 100)}])["file_ids"] == [0, 700, 25500]
    grey = CLASSES["semseg"].recognise([{"png": png(noisy(0)[..., 0])}])  # a photograph
    assert (grey.score, grey.what) == (0.1, "neighbouring pixels differ too often for ids of classes")


def test_files_hold_the_ids_that_are_listed_and_values_the_classes():
    masks = modality("semseg", file_ids=[0, 255], ignore=7)
    stored = np.zeros((8, 8), np.uint8)
    stored[2:4], stored[4:] = 7, 255
    value = masks.read({"png": png(stored)})
    assert value[:, 0].tolist() == [0, 0, -1, -1, 1, 1, 1, 1]
    assert masks.settings.num_classes == 2
    assert np.array_equal(masks.read(masks.write(value)), value)
    assert np.array_equal(masks.value(value), value)
    assert np.array_equal(masks.normalise(value), value)
    stored[5, 6] = 9
    with pytest.raises(SampleError, match=r"class id 9 at row 5, column 6 is not one of file_ids \(0, 255\)"):
        masks.read({"png": png(stored)})
    names = {"floor": 0, "thing": 255}
    assert SemSeg.settings_from_document("classes.json", json.dumps(names).encode())["file_ids"] == [0, 255]
    for wrong, says in (
        ({"file_ids": [0, 0]}, "names an id twice"),
        ({"file_ids": [0, 255]}, "ignore 255 is one of the 2 classes"),
        ({"file_ids": [0, 9], "num_classes": 3}, "num_classes is 3 but 2 classes are listed in file_ids"),
    ):
        with pytest.raises(ValueError, match=says):
            modality("semseg", **wrong)


def test_numbers_of_objects_are_no_classes():
    maps = [
        np.repeat(np.arange(4, dtype=np.uint16), 8)[:, None] * 1000 + np.full((32, 32), i, np.uint16) for i in range(9)
    ]
    recognised = SemSeg.recognise([{"png": png(m)} for m in maps])
    assert recognised.score < 0.3
    assert "write the class of each pixel, such as id // 1000" in recognised.what


def test_depth_tells_metres_from_numbers_that_fill_their_range():
    millimetres = {"png": png((SMOOTH * 1000).astype(np.uint16))}
    assert of("depth", [millimetres]) == {"min_depth": 0.83, "max_depth": 7.9, "png_unit": 0.001}
    assert of("depth", [{"npy": npy(SMOOTH.astype(np.float32))}]) == {"min_depth": 0.83, "max_depth": 7.9}
    relative = {"png": png((SMOOTH / SMOOTH.max() * 65535).astype(np.uint16))}
    assert of("depth", [relative]) == {"normalisation": "per_image"}
    assert of("depth", [{"npy": npy(SMOOTH / 10)}]) == {"normalisation": "per_image"}
    assert of("depth", [{"npy": npy(SMOOTH - 4)}]) is None  # negative
    gaps = SMOOTH.copy()
    gaps[:6] = -1
    assert of("depth", [{"npy": npy(gaps)}]) == {"min_depth": 1.7, "max_depth": 7.9, "no_depth": -1}
    gaps[:6] = 65.535
    counts = {"png": png((gaps * 1000).round().astype(np.uint16))}
    assert of("depth", [counts]) == {"min_depth": 1.7, "max_depth": 7.9, "png_unit": 0.001, "no_depth": 65535}


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_arrays_of_millimetres_are_depth_where_the_folder_says_so(kind):
    files = [{"npy": npy((SMOOTH * 1000).astype(kind))}]
    assert of("depth", files) == {"min_depth": 0.83, "max_depth": 7.9, "npy_unit": 0.001}
    assert Depth.recognise(files).score < 0.5  # in which unit?


def test_depth_in_another_unit_is_read_and_written_in_metres():
    numbers = np.array([[1500, 0], [-1, 2000]], np.int32)
    depth = modality("depth", npy_unit=0.001, no_depth=-1)
    value = depth.read({"npy": npy(numbers)})
    assert np.allclose(value, [[1.5, np.nan], [np.nan, 2]], equal_nan=True)
    value[0, 0] = 70  # beyond what a PNG of millimetres holds
    assert np.allclose(depth.read(depth.write(value)), value, equal_nan=True)
    counts = png(np.array([[1500, 65535]], np.uint16))
    assert np.isnan(modality("depth", no_depth=65535).read({"png": counts})).tolist() == [[False, True]]
    with pytest.raises(SampleError, match="integers may be millimetres"):
        modality("depth", no_depth=-1).read({"npy": npy(numbers)})


def test_transparent_pixels_have_no_normal():
    stored = np.full((32, 32, 4), 255, np.uint8)
    stored[..., :3], stored[16:, :, :3], stored[:8, :, 3] = (128, 128, 255), (255, 128, 128), 0
    assert Normal.recognise([{"png": png(stored)}]).score > 0.9
    assert np.isnan(modality("normal").read({"png": png(stored)})[:, 0, 0]).sum() == 8


def test_text_has_letters_and_its_length_is_told():
    assert of("caption", [{"txt": b"a red ball on the floor\na ball\n"}]) == {"max_tokens": 32}
    assert of("caption", [{"txt": b"word " * 60}]) == {"max_tokens": 128}
    assert of("caption", [{"txt": b"0 0.51 0.4 0.2 0.33\n7 0.1 0.1 0.05 0.05\n"}]) is None  # labels of a detector


def test_boxes_are_lists_of_labels_and_corners():
    box = {"label": "dog", "bbox": [0.1, 0.1, 0.5, 0.5]}
    assert of("boxes", [{"json": json.dumps([box] * 9).encode()}]) == {"max_boxes": 9, "max_tokens": 64}
    assert of("boxes", [{"json": b"[]"}]) is None
    assert of("boxes", [{"json": b'{"width": 640}'}]) is None


def test_features_say_how_many_channels_they_have():
    assert of("clip", [{"npy": npy(np.ones((7, 7, 48), np.float16))}] * 2) == {"channels": 48}
    assert of("clip", [{"npy": npy(np.ones((48, 7, 7), np.float16))}] * 2) == {"channels": 48}
    assert of("clip", [{"npy": npy(np.ones((200, 300, 3), np.float32))}]) is None  # colours


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_damaged_and_strange_files_are_nobodys(name):
    for content in (b"", b"\0" * 100, b"\x89PNG\r\n", b"\x93NUMPY\x01\0", b"[[[[", b"\xff\xfe\xff"):
        assert CLASSES[name].recognise([dict.fromkeys(("png", "npy", "txt", "json"), content)]) is None
    assert CLASSES[name].recognise([]) is None
    assert CLASSES[name].recognise([{"tif": b"II*\0"}]) is None

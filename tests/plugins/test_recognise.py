"""Plugins recognise their files by content, and leave those of others alone."""

from __future__ import annotations

import json

import numpy as np
import pytest

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
    assert of("semseg", [{"png": png(mask)}]) == {"num_classes": 256, "ignore": None}
    why = CLASSES["semseg"].recognise([{"png": png(mask)}]).settings["num_classes"][1]
    assert why.endswith("2 of them occur: a model is smaller if maps hold ids 0 to 1")
    assert of("semseg", [{"png": png(noisy(0)[..., 0])}]) is None  # a grey photograph


def test_depth_tells_metres_from_numbers_that_fill_their_range():
    millimetres = {"png": png((SMOOTH * 1000).astype(np.uint16))}
    assert of("depth", [millimetres]) == {"min_depth": 0.83, "max_depth": 7.9, "png_unit": 0.001}
    assert of("depth", [{"npy": npy(SMOOTH.astype(np.float32))}]) == {"min_depth": 0.83, "max_depth": 7.9}
    relative = {"png": png((SMOOTH / SMOOTH.max() * 65535).astype(np.uint16))}
    assert of("depth", [relative]) == {"normalisation": "per_image"}
    assert of("depth", [{"npy": npy(SMOOTH / 10)}]) == {"normalisation": "per_image"}
    assert of("depth", [{"npy": npy(SMOOTH - 4)}]) is None  # negative
    assert of("depth", [{"npy": npy(SMOOTH.astype(np.int16))}]) is None  # in which unit?


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

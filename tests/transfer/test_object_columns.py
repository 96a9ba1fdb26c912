"""Objects in a column, as Hugging Face `datasets` have it, are those of COCO's JSON; a wrong column is one line."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fourm_engine.transfer.coco import read_coco
from fourm_engine.transfer.config import DetectionConfig, ObjectsColumn
from fourm_engine.transfer.detection import Detection
from fourm_engine.transfer.object_columns import check_format, read_column
from fourm_plugins.spec import Grid
from fourm_plugins.view import View
from tests.running import refused
from tests.transfer import heads

CLASSES = ("red", "blue")
KIND: dict[str, Any] = {"bbox": [["number"]], "category": [CLASSES]}
#: Of a picture of 200 x 100 pixels; the second reaches out of it, the third lies outside.
BOXES = [[20, 20, 60, 40], [100, 50, 300, 30], [300, 10, 20, 20]]
OBJECTS = {"bbox": BOXES, "category": ["red", "blue", "blue"], "area": [1200, None, 1], "iscrowd": [0, 1, 0]}


def data(values, kind=KIND, size=(100, 200)):
    """What the reading of a column takes of a data set."""
    return SimpleNamespace(
        root="parquet:photos",
        column=lambda name: values,
        column_type=lambda name: kind,
        has=lambda name: {"rgb"},
        value=lambda name, modality: np.zeros((*size, 3), np.uint8),
    )


def column(**given):
    return ObjectsColumn(**{"column": "objects", "boxes": "xywh", **given})


def test_a_column_has_the_objects_of_cocos_file(tmp_path):
    annotations = [
        {"image_id": 1, "bbox": box, "category_id": CLASSES.index(label), "area": area or 0, "iscrowd": crowd}
        for box, label, area, crowd in zip(*OBJECTS.values())
    ]
    document = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 100, "width": 200}],
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in enumerate(CLASSES)],
    }
    (tmp_path / "instances.json").write_text(json.dumps(document))
    expected, classes = read_coco(tmp_path / "instances.json", ["a"])
    several = [dict(zip(OBJECTS, one)) for one in zip(*OBJECTS.values())]
    ends = [[x, y, x + w, y + h] for x, y, w, h in BOXES]
    for value, kind, settings in (
        (OBJECTS, KIND, {}),
        (several, [{"bbox": ["number"], "category": CLASSES}], {}),
        (OBJECTS | {"bbox": ends}, None, {"boxes": "xyxy"}),
        ({"where": BOXES, "what": OBJECTS["category"], **OBJECTS}, None, {"bbox": "where", "category": "what"}),
    ):
        read, names = read_column(data({"a": value}, kind), column(**settings), ["a", "b"])
        assert read.keys() == {"a"}
        assert set(names) == set(classes)
        objects = read["a"].within(100, 200)
        np.testing.assert_allclose(objects.boxes, expected["a"].boxes)
        assert [names[i] for i in objects.categories] == [classes[i] for i in expected["a"].categories]
        np.testing.assert_allclose(objects.areas, expected["a"].areas)
        assert objects.crowds.tolist() == expected["a"].crowds.tolist() == [False, True]


def test_boxes_in_shares_are_those_in_pixels():
    boxes = [[x / 200, y / 100, w / 200, h / 100] for x, y, w, h in BOXES]
    shares = read_column(data({"a": OBJECTS | {"bbox": boxes}}), column(relative=True), ["a"])[0]["a"].within(100, 200)
    pixels = read_column(data({"a": OBJECTS}), column(), ["a"])[0]["a"].within(100, 200)
    np.testing.assert_allclose(shares.boxes, pixels.boxes)


def test_the_size_of_a_picture_is_that_of_its_file_and_empty_lists_are_a_picture_without_objects():
    values = {"a": OBJECTS, "b": {"bbox": [], "category": []}}
    objects, classes = read_column(source := data(values), column(), list(values))
    picture = SimpleNamespace(
        name="rgb", spec=SimpleNamespace(layout=Grid(height=4, width=4), patch=(8, 8), alignment="view")
    )
    task = Detection(DetectionConfig(labels=column()), classes, picture, objects)
    target, truth = task.target(source, "a", {"view": View()}, 0, {})
    assert truth["size"] == [200, 100]
    np.testing.assert_allclose(truth["corners"], [[0.1, 0.2, 0.4, 0.6], [0.5, 0.5, 1, 0.8]])
    assert truth["counted"] == [True, False]  # the second is a crowd
    assert set(target["classes"].tolist()) == {-1, 0}
    target, truth = task.target(source, "b", {"view": View()}, 0, {})
    assert truth["corners"] == []
    assert set(target["classes"].tolist()) == {-1}
    rows = SimpleNamespace(names=["a", "b", "c"], has_at=lambda row: {"rgb"} if row else {"depth"})
    assert [task.has_target(rows, row) for row in range(3)] == [False, True, False]


@pytest.mark.parametrize(
    ("values", "kind", "settings", "message"),
    [
        ({}, "text", {}, "of type text, not objects with the fields bbox and category; name another column"),
        ({}, {"box": [["number"]], "category": [CLASSES]}, {}, "no field 'bbox'; did you mean 'box'? Set bbox: FIELD"),
        ({}, {**KIND, "category": ["number"]}, {}, "category: of type [number], not a class a box"),
        ({}, {**KIND, "bbox": ["number"]}, {}, "bbox: of type [number], not four numbers a box"),
        ({"x": OBJECTS}, KIND, {}, "none of the samples, such as 'a', has a value there"),
        ({"a": {**OBJECTS, "category": ["red"]}}, KIND, {}, "'a': 3 in bbox and 1 in category; correct it"),
        ({"a": [{"box": [0, 0, 1, 1]}]}, None, {}, "has no bbox and category; correct it"),
        ({"a": 3}, None, {}, "'a': 3 has no bbox and category; correct it"),
        ({"a": {"bbox": [], "category": []}}, None, {}, "holds no object, and so no class"),
        ({"a": {"bbox": [[0, 0, 5]], "category": ["red"]}}, KIND, {}, "box 0, [0, 0, 5]: not four numbers"),
        ({"a": {"bbox": [[0, 0, 5, float("nan")]], "category": ["red"]}}, KIND, {}, "not four numbers"),
        ({"a": {"bbox": [[9, 9, 5, 5]], "category": ["red"]}}, KIND, {"boxes": "xyxy"}, "begins; set boxes: xywh"),
        ({"a": {"bbox": [[9, 9, -5, 5]], "category": ["red"]}}, KIND, {}, "before it begins; correct it"),
        ({"a": {"bbox": [[9, 9, 5, 5]], "category": [None]}}, KIND, {}, "of class None, which is none"),
        ({"a": {"bbox": [[9, 9, 5, 5]], "category": ["green"]}}, KIND, {}, "'a': 'green' is no class of the column"),
        ({"a": {"bbox": [[0.1, 0.1, 0.5, 0.5]], "category": ["red"]}}, KIND, {}, "lie in [0, 1]; set relative: true"),
        ({"a": OBJECTS}, KIND, {"relative": True}, "not in [0, 1] of the picture; leave relative out"),
    ],
)  # fmt: skip
def test_a_column_that_is_none_of_objects_is_one_line(values, kind, settings, message):
    with pytest.raises(ValueError, match=r"^parquet:photos, column objects") as caught:
        read_column(data(values, kind), column(**settings), ["a"])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_column_of_another_type_is_refused_before_it_is_read():
    source = data({}, "binary")
    source.column = lambda name: pytest.fail("read")
    with pytest.raises(ValueError, match="of type binary, not objects"):
        read_column(source, column(), ["a"])


def test_boxes_of_the_other_format_reach_out_of_their_pictures():
    values = {"a": {"bbox": [[100, 40, 180, 90], [90, 60, 199, 99]], "category": ["red", "blue"]}}
    objects, _ = read_column(source := data(values), given := column(), ["a"])
    with pytest.raises(ValueError, match="of the first 2 boxes, 2 reach out of their pictures; set boxes: xyxy if"):
        check_format(objects, given, source, "rgb")
    objects, _ = read_column(source, given := column(boxes="xyxy"), ["a"])
    check_format(objects, given, source, "rgb")


def test_the_format_has_to_be_said(tmp_path):
    path = heads.config(tmp_path, tmp_path, tmp_path, {"kind": "detection", "labels": {"column": "objects"}})
    assert "task.labels.boxes" in refused("finetune", str(path))

"""fourm-parquet: tasks that are learned from columns: classes, lists of them, class maps, objects."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from tests.plugins.test_parquet import SMALL, _installed, write  # noqa: F401 (a fixture)
from tests.running import fourm
from tests.transfer import heads
from tests.transfer.test_learning import opened as opened_task

pq = pytest.importorskip("pyarrow.parquet")


def coloured(n, first):
    """Pictures of one colour each, their classes, lists of classes, and class maps."""
    kinds = [i % 3 for i in range(n)]
    maps = [np.full((40, 48), kind, np.uint8) for kind in kinds]
    pictures = [heads.picture(list(heads.COLOURS.values())[kind], first + i) for i, kind in enumerate(kinds)]
    shown, drawn = ([{"bytes": as_png(one), "path": None} for one in ones] for ones in (pictures, maps))
    return {"image": shown, "label": [*kinds[:-1], -1], "all": [[kind] for kind in kinds], "map": drawn}


def as_png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "png")
    return file.getvalue()


CLASSES = {"names": list(heads.COLOURS), "_type": "ClassLabel"}


@pytest.fixture
def flowers(tmp_path):
    """A config of `fourm finetune` without its task, for two splits of columns as `datasets` types them."""
    for split, first, n in (("train", 0, 12), ("validation", 100, 7)):
        types = {"label": CLASSES, "all": {"feature": CLASSES, "_type": "List"}}
        write(tmp_path / "flowers", coloured(n, first), split=split, features=types)
    text = f"parquet:{tmp_path}/flowers?rgb=image&semseg=map"
    data = {"train": text, "train_split": "train", "val": text, "val_split": "validation"}
    settings = {"semseg": {"num_classes": 3, **SMALL}}
    source = heads.model(tmp_path / "model")

    def config(task):
        sections = {"data": data, "modalities": {"settings": settings}}
        path = heads.config(tmp_path, source, tmp_path, task, **sections)
        path.write_text(path.read_text().replace("source: .", "source: rgb"))
        return path

    return config


def test_a_class_in_a_column_is_learned_and_minus_one_is_none(flowers):
    run = heads.run(flowers({"kind": "classification", "labels": {"column": "label"}}), "train.steps=40")
    assert heads.scores(run)["top-1"] == 1.0
    assert json.loads((run / "head/config.json").read_text())["classes"] == list(heads.COLOURS)


def test_lists_of_classes_and_class_maps_in_columns_are_learned(flowers, tmp_path):
    several = {"kind": "classification", "several": True, "labels": {"column": "all"}}
    assert heads.scores(heads.run(flowers(several), "train.steps=40"))["mAP"] > 0.9
    maps = {"kind": "segmentation", "target": "semseg", "head_options": heads.HEAD}
    run = heads.run(flowers(maps), f"run={tmp_path}/maps", "train.steps=40")
    assert heads.scores(run)["mIoU"] > 0.9


def test_a_column_that_is_not_there_is_named_with_the_nearest(flowers):
    with pytest.raises(ValueError, match=r"flowers.*: no column 'lable'; did you mean 'label'\? \(source 'parquet'"):
        heads.run(flowers({"kind": "classification", "labels": {"column": "lable"}}))


def test_its_samples_are_embedded_and_probed_by_a_column(flowers, tmp_path):
    flowers({})
    data, given = f"parquet:{tmp_path}/flowers/train-00000-of-00002.parquet?rgb=image", ["--input", "rgb@pixels"]
    said = fourm("embed", tmp_path / "model", data, *given, "--out", tmp_path / "index")
    assert "6 samples, 32 features each" in said
    out = tmp_path / "probe"
    fourm("probe", tmp_path / "model", data, *given, "--labels", "column:label", "--probe", "knn", "--out", out)
    assert json.loads((out / "probe.json").read_text())["classes"] == sorted(heads.COLOURS)


def test_a_column_of_another_type_is_told_before_it_is_read(flowers, monkeypatch):
    monkeypatch.setattr(pq.ParquetFile, "read", lambda *_, **__: pytest.fail("read"))
    for column in ("image", "map"):
        with pytest.raises(
            ValueError, match=f"column {column}: of type {{bytes: binary, .*}}, not text, an integer or a class"
        ):
            heads.run(flowers({"kind": "classification", "labels": {"column": column}}))


#: One as `datasets` writes objects, and how it says so: fields of lists, a list of fields, and the former of old.
OBJECTS = {
    "fields": {"bbox": {"_type": "List"}, "category": {"feature": CLASSES, "_type": "List"}},
    "list": {"feature": {"bbox": {"_type": "List"}, "category": CLASSES}, "_type": "List"},
    "sequence": {"feature": {"bbox": {"_type": "Sequence"}, "category": CLASSES}, "_type": "Sequence"},
}


def objects(root, way, size=64):
    """The pictures and squares of `heads.coco` as columns, and one without a value."""
    for split, part in (("train", "train2017"), ("validation", "val2017")):
        document = json.loads((root / f"annotations/instances_{part}.json").read_text())
        rows = []
        for image in document["images"]:
            here = [one for one in document["annotations"] if one["image_id"] == image["id"]]
            boxes, ids = [one["bbox"] for one in here], [one["category_id"] // 10 for one in here]
            fields = {"bbox": boxes, "category": ids}
            rows.append([dict(zip(fields, one)) for one in zip(boxes, ids)] if way == "list" else fields)
        kept = [(root / part / image["file_name"]).read_bytes() for image in document["images"]]
        columns = {"image": [*kept, kept[0]], "objects": [*rows, None]}
        write(root / "columns", columns, split=split, features={"objects": OBJECTS[way]})
    text = f"parquet:{root}/columns?rgb=image"
    return {"train": text, "train_split": "train", "val": text, "val_split": "validation"}


@pytest.mark.parametrize("way", list(OBJECTS))
def test_objects_in_a_column_are_those_of_cocos_file(way, tmp_path):
    data = objects(root := heads.coco(tmp_path), way)
    labels = {"labels": {"column": "objects", "boxes": "xywh"}, "val_labels": None}
    path = heads.detection(tmp_path, source := heads.model(tmp_path / "model"), root, data=data, task=labels)
    path.write_text(path.read_text().replace("source: .", "source: rgb"))
    _, task = opened_task(path)
    _, listed = opened_task(heads.detection(tmp_path / "coco", source, root))
    assert len(task.data) == len(listed.data) == 8  # the last has no objects, and one more no value
    assert task.objective.classes == tuple(heads.COLOURS)
    assert "task.labels" not in task.shared_facts()  # no file that processes could have other copies of
    for i in range(8):
        one, other = task.data.held_out(i)[0], listed.data.held_out(i)[0]
        np.testing.assert_array_equal(one.target["classes"], other.target["classes"])
        np.testing.assert_allclose(one.target["corners"], other.target["corners"], atol=1e-4)


@heads.needs_torchvision
def test_objects_in_a_column_are_learned(tmp_path):
    data = objects(root := heads.coco(tmp_path), "fields")
    data["val_split"] = "train"
    labels = {"labels": {"column": "objects", "boxes": "xywh"}, "val_labels": None, "scales": [2]}
    path = heads.detection(tmp_path, heads.model(tmp_path / "model"), root, data=data, task=labels)
    path.write_text(path.read_text().replace("source: .", "source: rgb"))
    run = heads.run(path, "train.steps=60", "train.lr=0.02", "train.batch_size=8")
    assert heads.scores(run)["AP50"] > 0.5

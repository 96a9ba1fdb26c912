"""`fourm init` reads tables of captions or boxes, and the names of classes."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.device import Machine
from fourm_engine.recipes.init import init
from fourm_plugins.manager import PluginManager
from tests.folders import names, png, write

CPU = Machine(cores=2, memory=8.0)


def table(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def coco(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"id": k, "file_name": row["file_name"]} for k, row in enumerate(rows)]
    annotations = [{"id": k, "image_id": k, "caption": row["caption"]} for k, row in enumerate(rows)]
    path.write_text(json.dumps({"images": images, "annotations": annotations}))


@pytest.mark.parametrize(
    ("images", "file", "write_table"),
    [
        ("images", "captions.jsonl", table),
        ("images", "images/metadata.jsonl", table),
        ("train/images", "train/captions.jsonl", table),
        ("train", "train/metadata.jsonl", table),
        ("train2017", "annotations/captions_train2017.json", coco),
    ],
)
def test_captions_in_one_file_are_named_and_unpacked_on_request_into_what_the_config_reads(
    here, images, file, write_table
):
    write(here / "photos", images, "rgb", names(12))
    captions = [{"file_name": f"{name}.png", "caption": f"a picture called {name}"} for name in names(12)]
    write_table(here / "photos" / file, captions)
    told = "\n".join(init(here / "photos", machine=CPU).lines)
    assert f"photos/{file} (column caption): one file of many samples; to write their texts to" in told
    assert "run this again with --unpack" in told

    report = init(here / "photos", machine=CPU, unpack=True, force=True)
    assert "caption" in report.config.modalities.select
    data = AlignedData.from_config(report.config.load_modalities(PluginManager()), report.config.data, training=True)
    assert all(data.value(name, "caption") == (f"a picture called {name}",) for name in data.names)
    assert data.counts["rgb"] == data.counts["caption"] > 0
    again = init(here / "photos", machine=CPU, unpack=True, force=True)
    assert again.config == report.config
    assert not any("--unpack" in line or "written to" in line for line in again.lines)


def test_a_table_that_names_no_sample_is_refused_and_nothing_is_written(here):
    write(here / "photos", "images", "rgb", names(3))
    table(here / "photos/captions.jsonl", [{"image": "x.jpg", "caption": "a b"}])
    with pytest.raises(ValueError, match=r"captions.jsonl: no row names a sample: they name such as 'x.jpg'"):
        init(here / "photos", machine=CPU, unpack=True)
    assert sorted(path.name for path in here.rglob("*") if path.suffix != ".png") == [
        "captions.jsonl",
        "images",
        "photos",
    ]


def maps(folder, ids):
    folder.mkdir(parents=True)
    for name in names(6):
        ids_HW = np.repeat(np.array(ids, np.uint8), 8)[:, None].repeat(16, 1)
        (folder / f"{name}.png").write_bytes(png(ids_HW))


def classes_of(report):
    return report.config.load_modalities(PluginManager())["semseg"].class_names()


def test_names_of_classes_beside_the_maps_become_part_of_the_config(here):
    maps(here / "photos/semseg", [0, 1, 255])
    (here / "photos/semseg/classes.json").write_text(json.dumps({"0": "sky", "1": "sea", "2": "land", "255": "none"}))
    report = init(here / "photos", machine=CPU)
    settings = report.config.modalities.settings["semseg"]
    assert (settings["classes"], settings["num_classes"], settings["ignore"]) == (["sky", "sea", "land"], 3, 255)
    assert "as classes.json says" in (here / "photos.yaml").read_text()
    assert classes_of(report) == ("sky", "sea", "land")


def test_names_that_do_not_fit_the_maps_are_not_used_and_that_is_said_in_one_line(here):
    maps(here / "photos/semseg", [0, 1, 5])
    (here / "photos/classes.json").write_text(json.dumps(["sky", "sea"]))
    report = init(here / "photos", machine=CPU)
    assert report.config.modalities.settings["semseg"]["num_classes"] == 6
    assert any("classes.json is not used: it does not fit the files: class id 5 at row" in x for x in report.lines)

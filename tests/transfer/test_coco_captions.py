"""Pictures and captions of COCO's `captions_….json`: all captions of a picture are learned, measured and searched."""

from __future__ import annotations

import json

import pytest

from fourm_engine.features.index import Index
from tests.running import fourm
from tests.transfer.heads import COLOURS, picture, retrieval, run, scores, write
from tests.transfer.test_learning import opened

WORDS = ("A {} square.", "one {} square", "The square is {}.", "{} all over", "a square in {}")


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    """`train2017/…jpg`, `val2017/…jpg`, `annotations/captions_….json`; the first picture has six captions."""
    root = tmp_path_factory.mktemp("coco")
    (root / "annotations").mkdir()
    for part, first in (("train2017", 0), ("val2017", 100)):
        images, annotations = [], []
        for number in range(first, first + 9):
            colour = list(COLOURS)[number % 3]
            write(root / part / f"{number:012}.jpg", picture(COLOURS[colour], number))
            images.append({"id": number, "file_name": f"{number:012}.jpg", "height": 40, "width": 48, "license": 4})
            for words in (*WORDS, *["again a {} square"] * (number == first)):
                caption = {"image_id": number, "id": len(annotations), "caption": words.format(colour)}
                annotations.append(caption)
        document = {"info": {}, "licenses": [], "images": images, "annotations": annotations}
        (root / f"annotations/captions_{part}.json").write_text(json.dumps(document))
    fourm("init", root, "--unpack", "--out", root / "unused.yaml")
    return root


@pytest.fixture(scope="module")
def config(source, coco, tmp_path_factory):
    data = {"train": str(coco / "train2017"), "val": str(coco / "val2017"), "views": 5}
    settings = {"rgb@pixels": {"source": "."}}
    return retrieval(tmp_path_factory.mktemp("run"), source, coco, data=data, modalities={"settings": settings})


def test_all_captions_are_learned_and_measured(config):
    _, task = opened(config)
    first = task.held_out.held_out(0)
    assert len(first) == 6
    assert set(first[0].shown) == {"rgb@pixels", "caption"}
    assert all(set(further.shown) == {"caption"} for further in first[1:])
    assert len({sample.shown["caption"].ids.tobytes() for sample in first}) == 6
    drawn = {task.data[position].shown["caption"].ids.tobytes() for position in range(9 * 30)}
    assert len(drawn) == 3 * 5  # of views 0 to 4


def test_captions_find_pictures_and_pictures_any_of_their_captions(config, coco, tmp_path):
    trained = run(config, "train.steps=60", "train.batch_size=9")
    assert scores(trained)["recall@10"] > 0.9
    val = coco / "val2017"
    said = fourm("embed", trained, val, "--input", "caption", "--alternatives", "--out", tmp_path / "captions")
    assert "9 samples, 46 alternatives" in said
    fourm("embed", trained, val, "--input", "rgb", "--out", tmp_path / "pictures")
    captions = Index.load(tmp_path / "captions")
    assert [captions.names.count(f"{number:012}") for number in range(100, 109)] == [6] + [5] * 8
    for index, queries in (("pictures", "captions"), ("captions", "pictures")):
        out = tmp_path / f"{index}.json"
        fourm("search", tmp_path / index, "--evaluate", tmp_path / queries, "--out", out)
        found = json.loads(out.read_text())
        assert (found["queries"], found["candidates"]) == ((46, 9) if index == "pictures" else (9, 46))
        # Pictures of one colour are alike: three of nine.
        assert found["plain"]["recall"]["5"] > 0.9 > found["chance"]["recall"]["5"]
    lines = fourm("search", tmp_path / "captions", trained, "--query", "caption=one red square", "-k", 3).splitlines()
    assert len({line.split()[1] for line in lines}) == 3

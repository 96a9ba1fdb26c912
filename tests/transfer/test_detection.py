"""Objects are learned from COCO's JSON, found again where they are, and measured as COCO does."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import fourm_engine as fm
from fourm_engine.recipes.finetune_task import finetune
from fourm_engine.recipes.task_config import load_task_config
from fourm_engine.transfer.coco import Objects, read_coco
from fourm_engine.transfer.config import DetectionConfig
from fourm_engine.transfer.detection import Detection, _distinct
from fourm_plugins.spec import Grid
from fourm_plugins.view import View
from tests.running import fourm
from tests.transfer.heads import coco, detection, needs_torchvision, scores, silent

pytest.importorskip("pycocotools")
pytestmark = needs_torchvision

RED, BLUE = (0.1, 0.2, 0.4, 0.6), (0.5, 0.5, 0.9, 0.8)
IMAGE = {"id": 0, "file_name": "0.jpg", "height": 10, "width": 10}
BOX = {"image_id": 0, "bbox": [0, 0, 5, 5], "category_id": 0}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return coco(tmp_path_factory.mktemp("coco"))


@pytest.fixture(scope="module")
def trained(source, place, tmp_path_factory):
    path = detection(tmp_path_factory.mktemp("detection"), source, place)
    train = ["train.steps=60", "train.lr=0.02", "train.batch_size=8", "task.scales=[2]"]
    config = load_task_config(path, [*train, f"data.val={place / 'train2017'}", f"task.val_labels={_labels(place)}"])
    finetune(config, print_fn=silent)
    return config.run


def _labels(place):
    return place / "annotations/instances_train2017.json"


def _task(objects, **config) -> Detection:
    layout = Grid(height=4, width=4)
    picture = SimpleNamespace(spec=SimpleNamespace(layout=layout, patch=(8, 8), alignment="view"))
    return Detection(DetectionConfig(labels="x.json", **config), ["red", "blue"], picture, {"a": objects})


def _objects(*boxes, crowd=()) -> Objects:
    n = len(boxes)
    crowds = np.array([i in crowd for i in range(n)], bool)
    return Objects((100, 200), np.array(boxes).reshape(-1, 4), np.arange(n), np.ones(n), crowds)


def _output(task: Detection, target) -> torch.Tensor:
    """What a head would make that found all objects, and knew which cells are central."""
    classes, boxes = torch.from_numpy(target["classes"]), torch.from_numpy(target["corners"])
    middles, sides = torch.from_numpy(task.middles), torch.from_numpy(task.sides)
    near, far = (middles - boxes[:, :2]) / sides, (boxes[:, 2:] - middles) / sides
    share = (torch.minimum(near, far) / torch.maximum(near, far)).prod(-1, keepdim=True).clamp(0.01, 0.99).sqrt()
    logits = torch.full((len(classes), 2), -20.0)
    logits[classes >= 0, classes[classes >= 0]] = 20.0
    return torch.cat([logits, near, far, share.logit()], -1)


def test_what_is_to_be_found_is_found_where_it_is_and_measured_as_perfect():
    task = _task(_objects(RED, BLUE), scales=[4, 2, 1])
    target, truth = task.target(None, "a", {"view": View()}, 0, {})
    told = task.answer(output := _output(task, target))
    assert set(told.labels) == {"red", "blue"}
    boxes = dict(zip(told.labels, told.boxes))
    np.testing.assert_allclose([boxes["red"], boxes["blue"]], [RED, BLUE], atol=1e-5)
    tensors = {key: torch.from_numpy(array)[None] for key, array in target.items()}
    metrics = task.metrics()
    metrics.update(output[None], tensors, [truth])
    measured = metrics.compute()
    assert measured["AP"] == pytest.approx(1)
    assert measured["AR100"] == pytest.approx(1)
    assert measured["AP medium"] == pytest.approx(1)  # 60 x 40 and 80 x 30 pixels of the file, 32² to 96²
    assert "AP small" not in measured
    other = output.clone()
    other[:, :2] = output[:, [1, 0]]  # each found as the other class
    metrics = task.metrics()
    metrics.update(other[None], tensors, [truth])
    assert metrics.compute()["AP"] == 0
    assert task.loss(output[None], tensors) < 0.2 * task.loss(other[None], tensors)


def test_crops_and_flips_move_boxes_and_what_they_hide_is_neither_learned_nor_counted():
    task = _task(_objects(RED, BLUE, (0.0, 0.0, 0.2, 0.2), crowd=(2,)), scales=[4, 2, 1])
    flipped, truth = task.target(None, "a", {"view": View(flip=True)}, 0, {})
    told = task.answer(_output(task, flipped))
    np.testing.assert_allclose(told.boxes[told.labels.index("red")], [0.6, 0.2, 0.9, 0.6], atol=1e-5)
    assert truth["counted"] == [True, True, False]
    assert 2 not in flipped["classes"]
    half = View(left=0.5, width=0.5)  # shows the blue one alone
    seen, truth = task.target(None, "a", {"view": half}, 0, {})
    assert set(seen["classes"].tolist()) == {-1, 1}
    assert truth["classes"] == [1]
    assert truth["size"] == [100, 100]
    back = task.answer(_output(task, seen)).uncrop(half)
    np.testing.assert_allclose(back.boxes[0], BLUE, atol=1e-5)


def test_a_cell_finds_the_smallest_object_it_lies_in_and_each_level_its_sizes():
    inner, outer = (0.4, 0.4, 0.6, 0.6), (0.02, 0.02, 0.98, 0.98)
    task = _task(_objects(outer, inner), scales=[4, 2])
    classes = task.target(None, "a", {"view": View()}, 0, {})[0]["classes"]
    fine, coarse = classes[: 16 * 16].reshape(16, 16), classes[16 * 16 :].reshape(8, 8)
    assert fine[8, 8] == 1
    assert 0 not in fine  # reaches farther than 8 cells of 2 pixels
    assert coarse[3, 3] == 0
    assert coarse[0, 0] == -1  # far from its middle


def test_of_overlapping_boxes_of_a_class_the_likeliest_stays():
    boxes = np.array([[0, 0, 1, 1], [0, 0, 1, 0.9], [0, 0, 1, 0.9], [0, 0, 0.3, 0.3]])
    assert _distinct(boxes, np.array([0, 0, 1, 0])).tolist() == [0, 2, 3]


def test_objects_are_learned_and_told_with_their_places(trained, place, tmp_path):
    assert scores(trained)["AP50"] > 0.5
    one = json.loads(_labels(place).read_text())["annotations"][0]
    shown = place / "train2017/000000000000.jpg"
    told = fm.load_head(trained, device="cpu").predict({"rgb": shown})
    x, y, side, _ = one["bbox"]
    assert told.labels[0] == "blue"
    np.testing.assert_allclose(told.boxes[0] * 64, [x, y, x + side, y + side], atol=6)
    lines = fourm("predict", trained, "--input", f"rgb={shown}", "-k", 1, "--out", tmp_path / "out").splitlines()
    score, label, *box = lines[0].split()
    assert (label, float(score)) == ("blue", pytest.approx(told.scores[0], abs=1e-3))
    first = json.loads((tmp_path / "out/objects.json").read_text())[0]
    assert first["label"] == "blue"
    np.testing.assert_allclose([first["bbox"], [float(c) for c in box]], told.boxes[[0, 0]], atol=1e-3)
    assert Image.open(tmp_path / "out/objects.png").size == (64, 64)


def test_objects_of_many_pictures_are_those_of_each_with_places_in_the_whole_picture(trained, place, tmp_path):
    (tmp_path / "wide").mkdir()
    for i in range(3):
        picture = np.asarray(Image.open(place / f"train2017/{i:012}.jpg"))
        Image.fromarray(np.pad(picture, ((0, 0), (20, 40), (0, 0)))).save(tmp_path / f"wide/{i}.png")
    fourm("predict", trained, "--input", f"rgb={tmp_path / 'wide'}", "--out", tmp_path / "out")
    model = fm.load_head(trained, device="cpu")
    for i in range(3):
        told = json.loads((tmp_path / f"out/objects/{i}.json").read_text())
        alone = model.predict({"rgb": tmp_path / f"wide/{i}.png"})
        assert [one["label"] for one in told] == list(alone.labels)
        np.testing.assert_allclose([one["bbox"] for one in told], alone.boxes, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"annotations": None}, "not COCO's JSON of instances: no images, annotations and categories"),
        ({"images": [{"id": 0, "file_name": "0.jpg"}]}, "images: missing or unknown: 'height'"),
        ({"images": [{**IMAGE, "height": float("inf")}]}, "images: cannot convert float infinity to integer"),
        ({"annotations": [{**BOX, "image_id": 7}]}, r"annotations\[0\]: missing or unknown: 7"),
        ({"annotations": [BOX, {**BOX, "bbox": [0, 0, 10**400, 1]}]}, r"annotations\[1\]: int too large to convert"),
        ({"categories": []}, "names no categories"),
        ({"images": [IMAGE, IMAGE]}, r"images\[1\] has the id of images\[0\], 0; remove one, or give it another"),
        ({"images": [IMAGE, {**IMAGE, "id": 4}]}, r"images\[1\] has the file_name of images\[0\], '0"),
        ({"categories": [{"id": 0, "name": "a"}, {"id": 0, "name": "b"}]}, r"categories\[1\] has the id of"),
        (
            {"annotations": [{**BOX, "id": 5}, BOX, {**BOX, "id": 5}]},
            r"annotations\[2\] is annotations\[0\] once more, of image_id 0; remove one of them",
        ),
        ({"annotations": [BOX, {**BOX, "area": 9}, BOX]}, r"annotations\[2\] is annotations\[0\] once more"),
        ({"images": [{"id": 0, "file_name": "b.jpg", "height": 1, "width": 1}]}, "such as 'b.jpg', is a sample"),
    ],
)
def test_a_file_that_lists_no_objects_is_named_with_what_is_wrong(change, error, tmp_path):
    document = {"images": [IMAGE], "annotations": [], "categories": [{"id": 0, "name": "red"}], **change}
    (tmp_path / "x.json").write_text(json.dumps({key: part for key, part in document.items() if part is not None}))
    with pytest.raises(ValueError, match=error) as caught:
        read_coco(tmp_path / "x.json", ["0"])
    assert str(tmp_path / "x.json") in str(caught.value)


def test_an_area_that_is_none_leaves_the_boxs_own(tmp_path):
    boxes = [{**BOX, "area": area} for area in (5, -5, float("nan"), None)]
    document = {"images": [IMAGE], "annotations": boxes, "categories": [{"id": 0, "name": "red"}]}
    (tmp_path / "x.json").write_text(json.dumps(document))
    assert read_coco(tmp_path / "x.json", ["0"])[0]["0"].areas.tolist() == [0.2, 1, 1, 1]


def test_a_number_too_long_to_read_is_told_with_the_file(tmp_path):
    (tmp_path / "x.json").write_text("1" * 5000)
    with pytest.raises(ValueError, match=r"x\.json: not JSON: Exceeds the limit"):
        read_coco(tmp_path / "x.json", ["0"])


@pytest.mark.parametrize("module", ["torchvision.models.detection.fcos", "pycocotools.coco"])
def test_a_package_that_is_missing_is_named_before_anything_is_trained(module, source, place, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=r"pip install 'fourm-engine\[detect\]'"):
        finetune(load_task_config(detection(tmp_path, source, place)), print_fn=silent)
    assert not (tmp_path / "run/config.yaml").exists()


def test_heads_of_other_tasks_are_refused(source, place, tmp_path):
    for head, wanted in (("linear", "use fcos"), ("pyramid", "use fcos")):
        path = detection(tmp_path / head, source, place, task={"head": head, "head_options": {}})
        with pytest.raises(ValueError, match=wanted):
            finetune(load_task_config(path), print_fn=silent)

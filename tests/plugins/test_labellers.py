"""Labellers: labels are the model's own, or follow from geometry; what cannot be labelled is one line. Small models,
stored and loaded as published ones are, without a network."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fourm_boxes import Box
from fourm_normal.labeller import normals_of_depth
from fourm_normal.metrics import angles

from fourm_plugins import SampleError
from tests.plugins import tiny
from tests.plugins.instances import modality

transformers = pytest.importorskip("transformers")
RGB = modality("rgb")


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """kind -> folder of a small model; each is made once."""
    made = {}

    def get(kind, **settings):
        key = (kind, *settings.items())
        if key not in made:
            made[key] = tiny.save(kind, tmp_path_factory.mktemp(kind), **settings)
        return made[key]

    return get


@pytest.fixture(scope="module")
def pictures():
    """Of two shapes, no two alike, none square."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, shape, dtype=np.uint8) for shape in ((40, 60, 3), (50, 30, 3), (40, 60, 3))]


def outputs(folder, auto, picture):
    """What the model says of one picture, asked as its documentation does."""
    import torch

    network = getattr(transformers, auto).from_pretrained(folder).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    with torch.no_grad():
        return processor, network(**processor(images=picture, return_tensors="pt"))


def test_metric_depth_is_the_models_own_in_metres(stored, pictures):
    folder = stored("depth", depth_estimation_type="metric", max_depth=10)
    depth = modality("depth")
    labels = depth.labeller(RGB, folder, batch_size=2).label(pictures)
    assert [x.shape for x in labels] == [(40, 60), (50, 30), (40, 60)]
    processor, found = outputs(folder, "AutoModelForDepthEstimation", pictures[2])
    expected = processor.post_process_depth_estimation(found, target_sizes=[(40, 60)])[0]["predicted_depth"]
    expected = np.where(expected > 0, expected, np.nan)  # what is not in front of the camera was not measured
    assert labels[2] == pytest.approx(expected, rel=1e-3, abs=1e-4, nan_ok=True)
    assert np.nanstd(labels[2]) > 0
    assert depth.read(depth.write(labels[2])) == pytest.approx(labels[2], abs=1e-3, nan_ok=True)


def test_relative_depth_says_so_and_is_no_metres(stored, pictures):
    folder = stored("depth")
    with pytest.raises(ValueError, match=r"predicts relative depth.*set normalisation: per_image"):
        modality("depth").labeller(RGB, folder)
    depth = modality("depth", normalisation="per_image")
    label = depth.labeller(RGB, folder, far=5).label(pictures[:1])[0]
    assert (label.min(), label.max()) == (pytest.approx(1), pytest.approx(5))
    processor, found = outputs(folder, "AutoModelForDepthEstimation", pictures[0])
    near = processor.post_process_depth_estimation(found, target_sizes=[(40, 60)])[0]["predicted_depth"].numpy()
    assert np.corrcoef(near.ravel(), 1 / label.ravel())[0, 1] == pytest.approx(1, abs=1e-5)
    # It may be said of a model what its config does not tell, and normals do not follow from it.
    assert modality("depth").labeller(RGB, folder, output="metric").output == "metric"
    with pytest.raises(ValueError, match="needs metric depth"):
        modality("normal").labeller(depth, None)


@pytest.mark.parametrize(
    ("kind", "auto"),
    [("segformer", "AutoModelForSemanticSegmentation"), ("mask2former", "AutoModelForUniversalSegmentation")],
)
def test_class_maps_are_the_models_own_under_the_modalitys_ids(stored, pictures, kind, auto):
    folder = stored(kind)
    semseg = modality("semseg", classes=["Floor", "lamp", "sky", "wall"])
    labels = semseg.labeller(RGB, folder, mapping={"sky-other": "sky"}).label(pictures)
    processor, found = outputs(folder, auto, pictures[1])
    expected = processor.post_process_semantic_segmentation(found, target_sizes=[(50, 30)])[0].numpy()
    assert labels[1].tolist() == np.array([3, 0, 2])[expected].tolist()
    assert semseg.read(semseg.write(labels[1])).tolist() == labels[1].tolist()
    unmapped = semseg.labeller(RGB, folder).label(pictures)[1]
    if isinstance(unmapped, SampleError):
        assert (expected == 2).all()
    else:
        assert unmapped.tolist() == np.array([3, 0, -1])[expected].tolist()


def test_class_maps_without_names_need_as_many_classes(stored, pictures):
    folder = stored("segformer")
    labels = modality("semseg", num_classes=3).labeller(RGB, folder).label(pictures)
    assert {int(i) for x in labels for i in np.unique(x)} <= {0, 1, 2}
    with pytest.raises(ValueError, match="knows 3 classes, the modality has 5 without names"):
        modality("semseg", num_classes=5).labeller(RGB, folder)
    with pytest.raises(ValueError, match="give a mapping"):
        modality("semseg", classes=["car", "road"]).labeller(RGB, folder)
    with pytest.raises(ValueError, match=r"'sky-other' is none of the classes; map it"):
        modality("semseg", classes=["wall", "floor"], ignore=None).labeller(RGB, folder)
    with pytest.raises(ValueError, match="has no class 'ceiling'"):
        modality("semseg", classes=["wall", "lamp"]).labeller(RGB, folder, mapping={"ceiling": "wall"})


@pytest.mark.parametrize("kind", ["yolos", "detr"])
def test_detected_boxes_are_the_models_own_with_their_scores(stored, pictures, kind):
    folder, boxes = stored(kind), modality("boxes")
    labels = boxes.labeller(RGB, folder, min_score=0.0).label(pictures)
    processor, found = outputs(folder, "AutoModelForObjectDetection", pictures[1])
    (expected,) = processor.post_process_object_detection(found, threshold=0.0, target_sizes=[(50, 30)])
    assert labels[1]
    for box in labels[1]:
        near = abs(expected["scores"].numpy() - box.score).argmin()
        x0, y0, x1, y1 = (expected["boxes"][near].numpy() / [30, 50, 30, 50]).clip(0, 1)
        assert (box.x0, box.y0, box.x1, box.y1) == pytest.approx((x0, y0, x1, y1), abs=1e-4)
        assert box.label == tiny.THINGS[int(expected["labels"][near])]
    assert boxes.read(boxes.write(labels[1])) == labels[1]
    sure = boxes.labeller(RGB, folder, min_score=1.0).label(pictures)
    assert sure == [[], [], []]


def test_detected_classes_that_may_not_occur_are_left_out_or_renamed(stored, pictures):
    folder, boxes = stored("yolos"), modality("boxes", labels=["pet", "dog"])
    every = modality("boxes").labeller(RGB, folder, min_score=0.0).label(pictures)
    kept = boxes.labeller(RGB, folder, min_score=0.0, mapping={"cat": "pet", "dog": None}).label(pictures)
    assert [[b.score for b in x] for x in kept] == [[b.score for b in x if b.label == "cat"] for x in every]
    assert {b.label for x in kept for b in x} <= {"pet"}
    with pytest.raises(ValueError, match=r"no class of .* is one of the 1 labels"):
        modality("boxes", labels=["car"]).labeller(RGB, folder)


def test_boxes_of_class_maps_enclose_each_region():
    semseg, boxes = modality("semseg", classes=["floor", "cube", "cone"]), modality("boxes")
    ids = np.zeros((10, 20), np.int64)
    ids[1:4, 2:6], ids[6:9, 10:15], ids[2:4, 12:14], ids[9, 0], ids[0, 0] = 1, 1, 2, 2, -1
    labels = boxes.labeller(semseg, None, exclude=["floor"], min_area=0.01).label([ids])[0]
    expected = [Box("cube", 0.1, 0.1, 0.3, 0.4), Box("cube", 0.5, 0.6, 0.75, 0.9), Box("cone", 0.6, 0.2, 0.7, 0.4)]
    assert labels == expected
    assert len(boxes.labeller(semseg, None, min_area=0).label([ids])[0]) == 5
    with pytest.raises(ValueError, match="classes have names, which semseg has not"):
        boxes.labeller(modality("semseg", num_classes=4), None)
    with pytest.raises(ValueError, match="exclude: no class 'sky'"):
        boxes.labeller(semseg, None, exclude=["sky"])


@pytest.mark.parametrize("kind", ["blip", "encoder_decoder"])
def test_captions_are_what_the_model_says(stored, pictures, kind):
    folder, caption = stored(kind), modality("caption")
    labels = caption.labeller(RGB, folder, beams=2, captions=2, max_new_tokens=6).label(pictures)
    for value in labels:
        assert 1 <= len(value) <= 2
        assert caption.read(caption.write(value)) == value
        assert all(word in tiny.WORDS for line in value for word in line.split())
    alone = caption.labeller(RGB, folder, beams=2, captions=2, max_new_tokens=6, batch_size=1).label(pictures)
    assert alone == labels
    with pytest.raises(ValueError, match=r"options of caption: .*captions 3 are more than beams 2"):
        caption.labeller(RGB, folder, beams=2, captions=3)


def plane(normal, offset, intrinsics, size=(24, 32)):
    """z-depth of the plane n . P = -offset, seen by a camera that looks along -z."""
    rows, columns = np.indices(size)
    fx, fy, cx, cy = intrinsics
    ray = np.stack([(columns + 0.5 - cx) / fx, -(rows + 0.5 - cy) / fy, -np.ones(size)], axis=-1)
    return -offset / (ray @ normal)


@pytest.mark.parametrize("normal", [(0, 0, 1), (0, 1, 0.3), (0.5, 0.2, 1), (-0.6, -0.3, 0.9)])
def test_the_normals_of_a_plane_are_the_planes(normal):
    normal = np.array(normal) / np.linalg.norm(normal)
    intrinsics = (40.0, 30.0, 15.0, 13.0)
    depth = plane(normal, 5.0, intrinsics)
    depth[depth <= 0] = np.nan
    found = normals_of_depth(depth.astype(np.float32), intrinsics)
    known = np.isfinite(found).all(-1)
    assert known.sum() > 100
    assert found[known] @ normal == pytest.approx(1, abs=1e-4)


def test_normals_of_rendered_scenes_are_nearly_the_true_ones(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "examples/scenes"))
    import raycast
    import world

    found = []
    for seed in range(3):
        scene = world.sample_world(np.random.default_rng(seed))
        picture = raycast.cast(scene, 64)
        fov = np.degrees(scene.camera.fov)
        labels = modality("normal").labeller(modality("depth"), None, fov=fov).label([picture.depth])
        found.append(angles(labels, [picture.normal]))
    assert np.median(np.concatenate(found)) < 0.01  # degrees
    assert np.mean(np.concatenate(found)) < 3  # creases and outlines


def test_normals_do_not_bend_at_edges_and_gaps_have_none():
    depth = np.full((12, 12), 4.0, np.float32)
    depth[:, 6:] = 1.0  # a nearer wall, both facing the camera
    depth[5, 5] = np.nan
    labeller = modality("normal").labeller(modality("depth"), None, fov=90)
    found = labeller.label([depth])[0]
    known = np.isfinite(depth)
    assert np.isnan(found[5, 5]).all()
    assert found[known] == pytest.approx(np.broadcast_to([0, 0, 1], found[known].shape), abs=1e-5)
    assert isinstance(labeller.label([np.full((4, 4), np.nan, np.float32)])[0], SampleError)
    assert isinstance(labeller.label([np.ones((1, 4), np.float32)])[0], SampleError)
    other = modality("normal").labeller(modality("depth"), None, intrinsics=(0.5, 0.5, 0.5, 0.5)).label([depth])[0]
    assert np.nan_to_num(other) == pytest.approx(np.nan_to_num(found), abs=1e-5)


def test_labels_do_not_depend_on_the_pictures_beside(stored, pictures):
    boxes = modality("boxes").labeller(RGB, stored("detr"), min_score=0.0)
    together, alone = boxes.label(pictures), [boxes.label([picture])[0] for picture in pictures]
    for a, b in zip(together, alone, strict=True):
        assert [(x.label, round(x.score, 4), round(x.x0, 4)) for x in a] == [
            (x.label, round(x.score, 4), round(x.x0, 4)) for x in b
        ]


@pytest.mark.parametrize("name", ["depth", "semseg", "caption", "clip"])
def test_a_model_must_be_named(name):
    with pytest.raises(ValueError, match=r"needs a .* model: name one"):
        modality(name).labeller(RGB, None)


def test_a_model_of_another_kind_without_its_head_or_without_safetensors_is_refused(stored, tmp_path):
    depth, folder = modality("depth"), stored("segformer")
    with pytest.raises(ValueError, match="cannot be used as a depth model: Unrecognized configuration class"):
        depth.labeller(RGB, folder)
    with pytest.raises(ValueError, match="nowhere: no such folder"):
        depth.labeller(RGB, str(tmp_path / "nowhere"))
    # An encoder alone: the library would go on with a head of random numbers.
    headless = tmp_path / "headless"
    network = transformers.AutoModelForSemanticSegmentation.from_pretrained(folder)
    network.segformer.save_pretrained(headless)
    network.config.save_pretrained(headless)
    with pytest.raises(ValueError, match=r"not trained as a segmentation model: lacks the weights decode_head"):
        modality("semseg", num_classes=3).labeller(RGB, str(headless))
    import torch

    pickled = tmp_path / "pickled"
    network.config.save_pretrained(pickled)
    torch.save(network.state_dict(), pickled / "pytorch_model.bin")
    with pytest.raises(ValueError, match="cannot be used as a segmentation model"):
        modality("semseg", num_classes=3).labeller(RGB, str(pickled))


def test_code_that_comes_with_a_model_is_not_run(tmp_path):
    folder = tmp_path / "coded"
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps({"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.M"}})
    )
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(ValueError, match="cannot be used as a depth model"):
        modality("depth").labeller(RGB, str(folder))
    assert not (tmp_path / "ran").exists()


def test_values_that_are_no_pictures_and_options_that_are_none_are_one_line(stored):
    folder = stored("depth", depth_estimation_type="metric", max_depth=10)
    with pytest.raises(ValueError, match=r"not from float32 \(4, 4\)"):
        modality("depth").labeller(RGB, folder).label([np.zeros((4, 4), np.float32)])
    with pytest.raises(ValueError, match=r"options of depth: outptu: unknown key; did you mean output\?"):
        modality("depth").labeller(RGB, folder, outptu="metric")
    with pytest.raises(ValueError, match="device 'nowhere' cannot be used"):
        modality("depth").labeller(RGB, folder, device="nowhere")


def test_without_the_libraries_the_command_that_installs_them_is_named():
    code = (
        "import sys\nsys.modules['torch'] = None\n"
        "from fourm_plugins.manager import PluginManager\n"
        "m = PluginManager(); rgb = m.modality('rgb')\n"
        "try: m.modality('depth').labeller(rgb, 'x')\n"
        "except ValueError as error: print(error)\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "pip install 'fourm-depth[label]'" in said
    assert said.count("\n") == 1

"""What holds for each of the seven modality plugins alike."""

import json
import subprocess
import sys
from importlib.metadata import entry_points

import numpy as np
import pytest
from fourm_boxes import Box, Boxes
from fourm_caption import Caption
from fourm_depth import Depth
from pydantic import ValidationError

from fourm_engine.vocabulary import Vocabulary
from fourm_plugins import ClassMap, FeatureMap, ModalitySpec, View
from tests.plugins.instances import CLASSES, modality


@pytest.fixture(params=CLASSES)
def each(request):
    return modality(request.param)


def same(a, b, tolerance=1e-9):
    if isinstance(a, np.ndarray):
        return a.shape == b.shape and np.allclose(a, b, atol=tolerance, equal_nan=True)
    return a == b


VIEW = View(top=0.1, left=0.2, height=0.7, width=0.6, flip=True, variant=3)


def test_each_entry_point_names_its_class():
    found = {e.name: e.load() for e in entry_points(group="fourm.modalities.v1")}
    assert {name: found.get(name) for name in CLASSES} == CLASSES


def test_importing_the_plugins_imports_no_torch_and_no_engine():
    code = (
        "import sys, fourm_rgb, fourm_depth, fourm_normal, fourm_semseg, fourm_boxes, fourm_caption, fourm_clip\n"
        "bad = {'torch', 'transformers', 'fourm_engine'} & {m.split('.')[0] for m in sys.modules}\n"
        "sys.exit(', '.join(sorted(bad)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_spec_survives_json(each):
    again = ModalitySpec.model_validate_json(each.spec.model_dump_json())
    assert again == each.spec
    assert again.fingerprint() == each.spec.fingerprint()


def test_what_is_written_is_read_again(each):
    for files in each.example_samples(3, seed=1):
        value = each.read(files)
        again = each.read(each.write(value))
        # Normals are stored with 8 bits: within one step of what was read.
        assert same(value, again, tolerance=1 / 127 if each.name == "normal" else 1e-6)


def test_examples_depend_on_the_seed_alone(each):
    assert each.example_samples(2, seed=5) == each.example_samples(2, seed=5)
    assert each.example_samples(3, seed=5)[:2] == each.example_samples(2, seed=5)
    assert each.example_samples(2, seed=5) != each.example_samples(2, seed=6)


def test_the_array_is_what_the_spec_says(each):
    array_spec = each.spec.array
    for files in each.example_samples(3, seed=2):
        array = each.normalise(each.augment(each.read(files), VIEW))
        if isinstance(array_spec, FeatureMap):
            assert array.dtype == np.float32
            assert array.shape == (array_spec.channels, array_spec.height, array_spec.width)
            assert array_spec.gaps or np.isfinite(array).all()
            assert np.isfinite(array).any()
        elif isinstance(array_spec, ClassMap):
            assert array.dtype == np.int64
            assert array.shape == (array_spec.height, array_spec.width)
            assert array.min() >= -1
            assert array.max() < array_spec.classes
        else:
            assert isinstance(array, str)
            assert 0 < len(array) <= array_spec.max_characters


def test_the_value_comes_back_from_its_array(each):
    for files in each.example_samples(3, seed=3):
        value = each.augment(each.read(files), VIEW)
        again = each.denormalise(each.normalise(value))
        if each.name == "boxes":  # in coordinate bins, in another order
            assert sorted(b.label for b in again) == sorted(b.label for b in value)
        elif each.name == "clip":
            assert np.allclose(again, value / np.linalg.norm(value, axis=-1, keepdims=True), atol=1e-5)
        else:
            assert same(value, again, tolerance=1e-4)


def test_values_are_shown_as_pictures_or_text(each):
    shown = each.render(each.read(each.example_samples(1, seed=0)[0]))
    assert isinstance(shown, str) if each.name == "caption" else (shown.mode == "RGB" and min(shown.size) > 0)


def test_a_perfect_prediction_scores_best_and_metrics_say_which_way(each):
    view = View()
    values = [each.augment(each.read(files), view) for files in each.example_samples(4, seed=4)]
    for metric in each.metrics():
        perfect, shuffled = metric.compute(values, values), metric.compute(values[1:] + values[:1], values)
        assert perfect >= shuffled if metric.higher_is_better else perfect <= shuffled, metric.name


def test_constants_have_the_values_shape(each):
    values = [each.augment(each.read(files), View()) for files in each.example_samples(4, seed=4)]
    for constant in each.constants(values).values():
        assert same(constant * 0, values[0] * 0) or each.name in ("depth", "normal")
        assert constant.shape == values[0].shape
        assert np.isfinite(constant).all()
    if each.constants(values):
        with pytest.raises(ValueError, match="one size"):
            each.constants([values[0], values[1][:4]])


@pytest.mark.parametrize("settings", [{"image_sise": 64}, {"image_size": 0}, {"image_size": 60, "patch_size": 16}])
def test_wrong_settings_are_refused(settings):
    for name in ("rgb", "rgb@pixels", "depth", "normal", "semseg", "clip"):
        with pytest.raises((ValidationError, ValueError), match=r"image_si[sz]e"):
            CLASSES[name](name, **settings)


def test_a_picture_need_not_be_square():
    depth = Depth("depth", image_size=[32, 64], patch_size=8)
    assert (depth.spec.layout.height, depth.spec.layout.width) == (4, 8)
    assert depth.spec.published_name is None
    assert depth.augment(np.ones((10, 20), np.float32), View()).shape == (32, 64)


def test_all_modalities_fit_one_vocabulary_and_text_is_shared():
    specs = [cls(name).spec for name, cls in CLASSES.items()]
    vocabulary = Vocabulary.build(specs)
    sizes = {entry.name: entry.size for entry in vocabulary}
    assert sizes == {
        "boxes": 30000,
        "caption": 30000,
        "clip": 8192,
        "depth": 8192,
        "normal": 8192,
        "rgb": 16384,
        "rgb@pixels": 0,
        "semseg": 4096,
    }
    assert {s.name: s.published_name for s in specs} == {
        "rgb": "tok_rgb@224",
        "rgb@pixels": "rgb@224",
        "depth": "tok_depth@224",
        "normal": "tok_normal@224",
        "semseg": "tok_semseg@224",
        "boxes": "det",
        "caption": "caption",
        "clip": "tok_clip@224",
    }
    with pytest.raises(ValueError, match="describe it differently"):
        Vocabulary.build([Caption("caption", text={"coordinate_bins": 100}).spec, Boxes("boxes").spec])


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("spot", [(10, 30), (30, 12)])
def test_views_move_all_modalities_alike(flip, spot):
    """One marked spot of 8x8 pixels in a picture of 48x64: after crop and flip it is at one place in all."""
    row, column = spot
    mark = np.zeros((48, 64), bool)
    mark[row - 4 : row + 4, column - 4 : column + 4] = True
    view = View(top=0.05, left=0.1, height=0.9, width=0.675, flip=flip)
    y, x = (row / 48 - 0.05) / 0.9, (column / 64 - 0.1) / 0.675
    expected = (y * 64, (1 - x if flip else x) * 64)

    def centre(seen):
        return tuple(np.argwhere(seen).mean(0) + 0.5)

    normals = np.where(mark[..., None], [0.6, 0, 0.8], [0, 0, 1]).astype(np.float32)
    boxes = [Box("spot", (column - 4) / 64, (row - 4) / 48, (column + 4) / 64, (row + 4) / 48)]
    rgb = modality("rgb").augment((mark * np.uint8(255))[..., None].repeat(3, 2), view)
    found = {
        "rgb": centre(rgb[..., 0] > 127),
        "depth": centre(modality("depth").augment(np.where(mark, 2, 1).astype(np.float32), view) > 1.5),
        "normal": centre(modality("normal").augment(normals, view)[..., 2] < 0.9),
        "semseg": centre(modality("semseg").augment(mark.astype(np.int64), view) == 1),
    }
    box = modality("boxes").augment(boxes, view)[0]
    found["boxes"] = ((box.y0 + box.y1) * 32, (box.x0 + box.x1) * 32)
    clip = modality("clip", channels=1, patch_size=2)
    weight = clip.augment(mark[..., None].astype(np.float32), view)[..., 0]
    rows, columns = (np.arange(32) * 2 + 1 for _ in range(2))
    found["clip"] = tuple((weight.sum(axis) * at).sum() / weight.sum() for axis, at in ((1, rows), (0, columns)))
    for name, place in found.items():
        assert np.abs(np.subtract(place, expected)).max() < 1.1, (name, place, expected)


def test_examples_of_different_modalities_show_the_same_shapes():
    regions = modality("semseg").read(modality("semseg").example_samples(1, seed=3)[0])
    boxes = json.loads(modality("boxes").example_samples(1, seed=3)[0]["json"])
    x0, y0, x1, y1 = boxes[0]["bbox"]
    inside = regions[round(y0 * 48) : round(y1 * 48), round(x0 * 64) : round(x1 * 64)]
    assert (inside != 0).mean() > 0.5

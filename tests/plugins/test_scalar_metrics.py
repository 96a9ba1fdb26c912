"""Metrics against known cases and slow obvious versions; constants against other constants."""

import numpy as np
import pytest
from fourm_boxes import Box
from hypothesis import given, settings
from hypothesis import strategies as st

from fourm_plugins import SampleError, View
from tests.plugins.instances import modality


def metric(plugin, name):
    return next(m.compute for m in plugin.metrics() if m.name == name)


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def test_psnr_of_an_error_of_one_level_is_48_db():
    rgb = modality("rgb")
    truth = np.full((4, 4, 3), 100, np.uint8)
    assert metric(rgb, "PSNR")([truth + np.uint8(1)], [truth]) == pytest.approx(48.1308, abs=1e-3)
    assert metric(rgb, "mean absolute error")([truth - np.uint8(3)], [truth]) == 3


@pytest.mark.parametrize(("name", "low", "high"), [("rgb", -1, 1), ("rgb@pixels", -2.2, 2.7)])
def test_pixels_are_normalised_as_published(name, low, high):
    plugin = modality(name)
    black, white = np.zeros((64, 64, 3), np.uint8), np.full((64, 64, 3), 255, np.uint8)
    assert plugin.normalise(black).min() == pytest.approx(low, abs=0.1)
    assert plugin.normalise(white).max() == pytest.approx(high, abs=0.1)


def test_depth_measures_leave_out_what_was_not_measured():
    depth = modality("depth")
    truth = np.array([[1.0, 2.0], [np.nan, 4.0]], np.float32)
    guess = np.array([[1.1, 1.0], [9.0, np.nan]], np.float32)  # a missing prediction counts as 0
    assert metric(depth, "AbsRel")([guess], [truth]) == pytest.approx((0.1 + 0.5 + 1) / 3)
    assert metric(depth, "delta1")([guess], [truth]) == pytest.approx(1 / 3)
    assert metric(depth, "RMSE")([guess], [truth]) == pytest.approx(np.sqrt((0.01 + 1 + 16) / 3))


def test_relative_depth_is_measured_up_to_scale_and_offset():
    depth = modality("depth", normalisation="per_image")
    truth = depth.augment(depth.read(depth.example_samples(1, 0)[0]), View())
    again = depth.denormalise(depth.normalise(truth))
    assert np.nanmin(again) == pytest.approx(1)
    assert metric(depth, "AbsRel, aligned")([again], [truth]) < 1e-5
    assert metric(depth, "AbsRel, aligned")([3 * again + 7], [truth]) < 1e-5
    assert np.allclose(depth.normalise(5 * truth + 1), depth.normalise(truth), atol=1e-3, equal_nan=True)
    assert np.allclose(depth.read(depth.write(again)), again, atol=1e-3, equal_nan=True)


def test_an_edit_of_relative_depth_leaves_what_is_given_and_takes_its_scale():
    depth = modality("depth", normalisation="per_image")
    given = np.linspace(2, 6, 32 * 32, dtype=np.float32).reshape(32, 32)
    generated = (given - given.min()) / 2 + 1  # of another scale and offset
    kept = np.zeros((32, 32), np.bool_)
    kept[:, :16] = True
    value = depth.compose(given, generated, kept)
    assert np.array_equal(value[kept], given[kept])
    assert np.allclose(value, given, atol=1e-4)
    assert value.dtype == np.float32


def test_relative_depth_is_standardised_by_its_middle_and_not_its_extremes():
    depth = modality("depth", normalisation="per_image")
    value = np.random.default_rng(0).permutation(np.linspace(1, 9, 100)).reshape(10, 10).astype(np.float32)
    array = depth.normalise(value)[0]
    middle = np.sort(value.ravel())[10:90]
    np.testing.assert_allclose(array, (value - middle.mean()) / middle.std(), atol=1e-4)
    far = np.where(value == value.max(), np.float32(1000), value)  # one wrong measurement
    np.testing.assert_allclose(depth.normalise(far)[0][far < 1000], array[far < 1000], atol=1e-5)


def test_metric_depth_is_clipped_to_its_range():
    depth = modality("depth", min_depth=1, max_depth=10)
    back = depth.denormalise(depth.normalise(np.array([[0.5, 1, 3, 20]], np.float32)))
    assert np.allclose(back, [[1, 1, 3, 10]])


def test_far_depths_are_written_in_metres():
    depth = modality("depth")
    assert set(depth.write(np.full((2, 2), 80, np.float32))) == {"npy"}
    assert set(depth.write(np.full((2, 2), 60, np.float32))) == {"png"}


def maps(low, high):
    return st.integers(0, 10_000).map(lambda seed: np.random.default_rng(seed).uniform(low, high, (6, 3, 4)))


@given(maps(0.5, 9), st.floats(0.5, 9))
@settings(max_examples=30)
def test_no_other_constant_depth_has_a_lower_relative_error(truths, other):
    depth = modality("depth")
    truths = truths.astype(np.float32)
    truths[0, 0] = np.nan
    constants, error = depth.constants(list(truths)), metric(depth, "AbsRel")
    best = {name: error([c] * 6, truths) for name, c in constants.items()}
    assert best["one image"] <= best["one value"] + 1e-6
    assert best["one value"] <= error([np.full((3, 4), other)] * 6, truths) + 1e-6
    moved = constants["one image"] * np.random.default_rng(int(other * 1e6)).uniform(0.9, 1.1, (3, 4))
    assert best["one image"] <= error([moved] * 6, truths) + 1e-6


@given(st.integers(0, 10_000))
@settings(max_examples=30)
def test_no_other_constant_normal_has_a_smaller_mean_angle(seed):
    normal = modality("normal")
    rng = np.random.default_rng(seed)
    truths = unit(rng.normal(size=(7, 3, 4, 3)) + np.array([0, 0, rng.uniform(0, 2)]))
    truths[1, 2] = np.nan
    constants, error = normal.constants(list(truths)), metric(normal, "mean angle")
    best = {name: error([c] * 7, truths) for name, c in constants.items()}
    assert best["one image"] <= best["one value"] + 0.05
    value = constants["one value"]
    for size in (0.02, 0.3):
        other = unit(value + size * rng.normal(size=3))
        assert best["one value"] <= error([other] * 7, truths) + 0.05  # stored with 8 bits: 0.3 degrees
        moved = unit(constants["one image"] + size * rng.normal(size=(3, 4, 3)))
        assert best["one image"] <= error([moved] * 7, truths) + 0.02


def test_angles_of_known_normals():
    normal = modality("normal")
    truth = np.broadcast_to(np.array([0, 0, 1], np.float32), (1, 4, 3)).copy()
    guess = np.array([[[0, 0, 1], [1, 0, 0], [0, 0, -1], [0, np.sin(0.1), np.cos(0.1)]]], np.float32)
    truth[0, 2] = np.nan
    assert metric(normal, "mean angle")([guess], [truth]) == pytest.approx((0 + 90 + np.degrees(0.1)) / 3, abs=1e-4)
    assert metric(normal, "median angle")([guess], [truth]) == pytest.approx(np.degrees(0.1), abs=1e-4)
    assert metric(normal, "within 11.25°")([guess], [truth]) == pytest.approx(2 / 3)


def test_a_flip_mirrors_normals_and_negates_x():
    normal = modality("normal")
    value = np.zeros((64, 64, 3), np.float32)
    value[:, :32] = [0.6, 0, 0.8]  # to the right, in the left half
    value[:, 32:] = [0, 0.6, 0.8]
    seen = normal.augment(value, View(flip=True))
    assert np.allclose(seen[5, 60], [-0.6, 0, 0.8])
    assert np.allclose(seen[5, 3], [0, 0.6, 0.8])


def test_decoded_normals_have_unit_length():
    array = np.random.default_rng(0).normal(size=(3, 64, 64)).astype(np.float32)
    array[:, 0, 0] = 0
    value = modality("normal").denormalise(array)
    assert np.allclose(np.linalg.norm(value, axis=-1), 1, atol=1e-5)
    assert value[0, 0].tolist() == [0, 0, 1]


@given(st.integers(0, 10_000))
@settings(max_examples=20)
def test_iou_is_what_counting_pixels_gives(seed):
    semseg = modality("semseg", num_classes=5)
    rng = np.random.default_rng(seed)
    truths, guesses = rng.integers(-1, 4, (3, 6, 6)), rng.integers(-1, 5, (3, 6, 6))
    known = truths >= 0
    ious = []
    for c in set(truths[known].tolist()):
        both = ((truths == c) & (guesses == c)).sum()
        ious.append(both / (((truths == c) | (guesses == c)) & known).sum())
    assert metric(semseg, "mIoU")(list(guesses), list(truths)) == pytest.approx(np.mean(ious))
    assert metric(semseg, "pixel accuracy")(list(guesses), list(truths)) == pytest.approx(
        (truths == guesses)[known].mean()
    )
    constants = semseg.constants(list(truths))
    for name, constant in constants.items():
        best = metric(semseg, "pixel accuracy")([constant] * 3, list(truths))
        others = [np.full((6, 6), c) for c in range(5)] + [rng.integers(0, 5, (6, 6))]
        for other in others if name == "one image" else others[:5]:
            assert best >= metric(semseg, "pixel accuracy")([other] * 3, list(truths))


def test_class_names_set_the_number_of_classes():
    semseg = modality("semseg", classes=["floor", "wall", "cone"])
    assert semseg.spec.array.classes == 3
    for wrong in ({"classes": ["a", "b"], "num_classes": 3}, {"num_classes": 300}):
        with pytest.raises(ValueError, match=r"num_classes is 3|ignore 255"):
            modality("semseg", **wrong)


def test_class_maps_of_16_bits_and_without_an_ignored_id():
    semseg = modality("semseg", num_classes=300, ignore=None)
    value = np.array([[0, 299], [255, 7]])
    assert np.array_equal(semseg.read(semseg.write(value)), value)
    with pytest.raises(SampleError, match=r"some pixels have no class.* set ignore"):
        semseg.write(value - 1)  # -1 would be stored as class 0


def boxes(*rows):
    return [Box(label, *corners, score=score) for label, *corners, score in rows]


LEFT, RIGHT, OFF = (0.0, 0.0, 0.4, 0.4), (0.6, 0.6, 1.0, 1.0), (0.0, 0.6, 0.2, 0.8)


@pytest.mark.parametrize(
    ("predicted", "expected"),
    [
        ([("a", *LEFT, None), ("a", *RIGHT, None)], 1.0),
        ([("b", *LEFT, None), ("b", *RIGHT, None)], 1.0),  # the class is ignored
        ([], 0.0),
        ([("a", *LEFT, None)], 0.5),
        ([("a", *LEFT, None), ("a", *OFF, None)], 0.25),  # precision 1/2 x recall 1/2
        ([("a", *LEFT, None), ("a", *LEFT, None)], 0.25),  # the second finds its box taken
        ([("a", *LEFT, 0.9), ("a", *OFF, 0.5), ("a", *RIGHT, 0.1)], 0.5 * 1 + 0.5 * 2 / 3),
        ([("a", *OFF, 0.9), ("a", *LEFT, 0.5), ("a", *RIGHT, 0.1)], 2 / 3),
    ],
)
def test_average_precision_of_known_cases(predicted, expected):
    truth = boxes(("a", *LEFT, None), ("b", *RIGHT, None))
    compute = metric(modality("boxes"), "AP50, class ignored")
    assert compute([boxes(*predicted)], [truth]) == pytest.approx(expected)
    assert compute([boxes(*predicted[::-1])], [truth]) == pytest.approx(expected)
    # The same in two pictures of which one is empty.
    assert compute([boxes(*predicted), []], [truth, []]) == pytest.approx(expected)


def test_average_precision_by_class_is_the_mean_over_true_classes():
    truth = boxes(("a", *LEFT, None), ("b", *RIGHT, None))
    compute = metric(modality("boxes"), "AP50")
    assert compute([boxes(("A", *LEFT, None), ("c", *RIGHT, None))], [truth]) == 0.5
    assert compute([[]], [[]]) == 0.0


@given(st.integers(0, 10_000))
@settings(max_examples=30)
def test_no_other_constant_feature_has_a_higher_mean_cosine(seed):
    clip = modality("clip", channels=4)
    rng = np.random.default_rng(seed)
    truths = list((rng.normal(size=(5, 2, 3, 4)) + rng.normal(size=4)).astype(np.float32))
    constants, cosine = clip.constants(truths), metric(clip, "cosine similarity")
    best = {name: cosine([c] * 5, truths) for name, c in constants.items()}
    assert best["one image"] >= best["one value"] - 1e-6
    other = rng.normal(size=(2, 3, 4))
    assert best["one value"] >= cosine([np.broadcast_to(other[0, 0], (2, 3, 4))] * 5, truths) - 1e-6
    assert best["one image"] >= cosine([constants["one image"] + 0.1 * other] * 5, truths) - 1e-6


def test_word_f1_counts_repetitions_and_takes_the_best_alternative():
    compute = metric(modality("caption"), "word F1")
    assert compute(["A red, RED cube"], [("a red red cube", "nothing")]) == 1
    assert compute(["a a"], ["a b"]) == pytest.approx(0.5)
    assert compute(["", "x"], ["a", "x"]) == 0.5
    assert metric(modality("caption"), "length ratio")(["a b"], [("a b c d", "a b c")]) == pytest.approx(2 / 3)

"""Pictures for people: what stands beside them, and that nothing written covers anything else."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fourm_engine.drawing import MAX_ENTRIES, Cell, explained, sheet, show
from fourm_plugins.legend import Key, Scale, round_numbers
from tests.plugins.instances import modality

RAMP = np.linspace([0, 0, 255], [255, 0, 0], 256).astype(np.uint8)


def test_a_scale_stands_beside_the_picture_with_its_lower_end_at_the_bottom():
    picture = Image.new("RGB", (8, 8), (9, 9, 9))
    whole = np.asarray(explained(picture, Scale(RAMP, ((0.0, "1"), (1.0, "5")), "m"), side=128))
    assert (whole[:128, :128] == 9).all()
    bar = whole[:, 128 + 12].astype(int)
    coloured = np.flatnonzero((bar.max(1) > 100) & (bar.min(1) < 5))
    assert len(coloured) > 90
    assert bar[coloured[0]].tolist() == [255, 0, 0]
    assert bar[coloured[-1]].tolist() == [0, 0, 255]


def test_labels_of_a_scale_never_cover_each_other():
    crowded = Scale(RAMP, tuple((k / 200, f"{k}") for k in range(201)), "")
    few = Scale(RAMP, tuple((k / 6, f"{k}") for k in range(7)), "")
    picture = Image.new("RGB", (8, 8))

    def rows_with_ink(scale):
        whole = np.asarray(explained(picture, scale, side=128))[:, 128 + 10 + 22 :]
        ink = (whole < 128).any((1, 2))
        return int(np.count_nonzero(np.diff(ink.astype(int)) == 1) + ink[0])

    assert rows_with_ink(few) == 7
    assert rows_with_ink(crowded) >= 7  # each line of text is apart from the next


def test_a_key_names_at_most_so_many_entries_and_says_how_many_more():
    picture = Image.new("RGB", (8, 8))
    key = Key(tuple(((k, 0, 0), f"class {k}") for k in range(40)))
    long, short = explained(picture, key, side=64), explained(picture, Key(key.entries[:3]), side=64)
    assert short.height == 64
    assert long.height == 18 * (MAX_ENTRIES + 1)
    assert explained(picture, None) is picture
    assert explained("words", key) == "words"


@pytest.mark.parametrize(
    ("low", "high", "log", "numbers"),
    [
        (0.1, 100.0, True, [0.1, 1, 10, 100]),
        (0.5, 12.0, True, [0.5, 1, 2, 5, 10]),
        (3.0, 3.5, True, [3.0, 3.1, 3.2, 3.3, 3.4, 3.5]),
        (-20.0, 45.0, False, [-20, 0, 20, 40]),
        (0.0, 1.0, False, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (2.0, 2.0, False, [2.0]),
        (0.0, 1e-13, False, [0, 2e-14, 4e-14, 6e-14, 8e-14, 1e-13]),
    ],
)
def test_marks_are_round_numbers_within_the_range(low, high, log, numbers):
    assert round_numbers(low, high, log=log) == pytest.approx(numbers, abs=0)


def test_depth_is_shown_in_metres_and_classes_by_name():
    depth = modality("depth", min_depth=0.5, max_depth=12.0)
    legend = depth.legend(np.full((4, 4), 2.0, np.float32))
    assert legend.unit == "m"
    assert [label for _, label in legend.marks] == ["0.5", "1", "2", "5", "10"]
    at = {label: share for share, label in legend.marks}["2"]
    drawn = np.asarray(depth.render(np.full((4, 4), 2.0, np.float32)))[0, 0].astype(int)
    assert np.abs(legend.colours[round(at * 255)].astype(int) - drawn).max() <= 4

    classes = modality("semseg", classes=["floor", "wall", "cube"])
    value = np.array([[2, 2, 2], [0, 0, -1]])
    assert [name for _, name in classes.legend(value).entries] == ["cube", "floor", "no class"]
    assert show(classes, value, side=64).width > 64


def test_features_of_several_maps_share_the_colours():
    clip = modality("clip", channels=16, image_size=32, patch_size=8)
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 16))
    left = np.broadcast_to(a, (4, 4, 16)).copy()
    left[:, 2:] = b
    right = left[:, ::-1].copy()
    one, other = (np.asarray(x) for x in clip.render_all([left, right]))
    assert np.array_equal(one[:, ::-1], other)
    assert len(np.unique(one.reshape(-1, 3), axis=0)) == 2


def test_labels_of_boxes_stay_in_the_picture_and_apart():
    from fourm_boxes import Box, Boxes

    one = Boxes("boxes")
    alone = np.asarray(one.render([Box("cube", 0.9, 0.0, 1.0, 0.1)]))
    edge = np.asarray(one.render([Box("a long name of something", 0.9, 0.0, 1.0, 0.1)]))
    background = (245, 245, 245)
    assert (alone != background).any(-1).sum() < (edge != background).any(-1).sum()
    # Two boxes in one place show two tabs: a second colour is there in full.
    same = np.asarray(one.render([Box("cube", 0.2, 0.2, 0.6, 0.6), Box("ball", 0.2, 0.2, 0.6, 0.6)]))
    _, counts = np.unique(same.reshape(-1, 3), axis=0, return_counts=True)
    assert np.sort(counts)[-3] > 150


def test_a_sheet_is_as_tall_as_its_tallest_cells():
    picture = Image.new("RGB", (10, 10))
    low = sheet([("a", [Cell(picture, "one"), None])], cell=50)
    high = sheet([("a", [Cell(picture, "one"), Cell("word " * 80)])], cell=50)
    assert high.width == low.width
    assert high.height > low.height + 100


def test_pictures_of_a_row_are_level_whatever_their_captions():
    red = Image.new("RGB", (8, 8), (255, 0, 0))
    picture = np.asarray(
        sheet([("row", [Cell(red, "short"), Cell(red, "a caption that is too long for a line")])], cell=60)
    )
    is_red = (picture == (255, 0, 0)).all(-1)
    left, right = np.flatnonzero(is_red.any(0)).min(), np.flatnonzero(is_red.any(0)).max()
    assert np.flatnonzero(is_red[:, left]).tolist() == np.flatnonzero(is_red[:, right]).tolist()
    assert left + 60 < right

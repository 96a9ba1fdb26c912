"""Which boxes are written and in which order, and what becomes of generated text that is none."""

import re
from dataclasses import replace

import numpy as np
import pytest
from fourm_boxes import Box, parse_boxes, write_boxes
from hypothesis import given, settings
from hypothesis import strategies as st

from fourm_plugins import View
from tests.plugins.instances import modality

BINS = 100
THREE = [
    Box("far", 0.5, 0.5, 0.9, 0.9, score=0.3),
    Box("near", 0.0, 0.1, 0.2, 0.2, score=0.9),
    Box("own", 0.2, 0.2, 1.0, 1.0),
]


def labels(boxes):
    return [box.label for box in boxes]


@pytest.mark.parametrize(
    ("order", "written"),
    [
        ("distance", ["near", "own", "far"]),
        ("area", ["own", "far", "near"]),
        ("score", ["own", "near", "far"]),  # one without a score counts as certain
        ("random", ["far", "near", "own"]),  # as they come
    ],
)
def test_boxes_are_written_in_the_chosen_order(order, written):
    boxes = modality("boxes", order=order)
    assert labels(boxes.denormalise(boxes.normalise(THREE))) == written


@pytest.mark.parametrize(
    ("order", "kept"), [("distance", ["own", "far"]), ("area", ["own", "far"]), ("score", ["own", "near"])]
)
def test_beyond_the_maximum_the_largest_are_kept_or_by_score_the_most_certain(order, kept):
    boxes = modality("boxes", order=order, max_boxes=2)
    assert labels(boxes.denormalise(boxes.normalise(THREE))) == kept


def test_uncertain_boxes_are_left_out_and_those_without_a_score_stay():
    assert labels(modality("boxes", min_score=0.5).augment(THREE, View())) == ["near", "own"]
    assert labels(modality("boxes", min_score=1).augment(THREE, View())) == ["own"]


def test_a_random_order_is_the_views_and_differs_between_views():
    boxes = modality("boxes", order="random")
    value = [Box(f"b{i}", 0.1, 0.1, 0.5, 0.5) for i in range(8)]
    drawn = [labels(boxes.augment(value, View(variant=v))) for v in range(4)]
    assert drawn == [labels(boxes.augment(value, View(variant=v))) for v in range(4)]
    assert len({tuple(d) for d in drawn}) == 4
    assert all(sorted(d) == labels(value) for d in drawn)


corner = st.integers(0, BINS - 1)
boxes_on_bins = st.builds(
    lambda label, a, b, c, d: Box(label, *(x / (BINS - 1) for x in (min(a, c), min(b, d), max(a, c), max(b, d)))),
    st.sampled_from(["cube", "traffic light", "t-shirt", "v8 engine", "3d"]),
    *[corner] * 4,
).filter(lambda box: box.x0 < box.x1 and box.y0 < box.y1)


@given(st.lists(boxes_on_bins, max_size=6), st.sampled_from(["distance", "area", "score", "random"]))
@settings(max_examples=60)
def test_reading_what_was_written_gives_the_same_boxes_and_the_same_text(given_boxes, order):
    text = write_boxes(given_boxes, bins=BINS, order=order)
    parsed, dropped = parse_boxes(text, bins=BINS)
    assert dropped == 0
    assert sorted(map(repr, parsed)) == sorted(map(repr, given_boxes))
    assert write_boxes(parsed, bins=BINS, order="random") == text


soup = st.lists(
    st.sampled_from(
        ["v0=1", "v0=99", "v1=2", "v2=30", "v3=40", "v3=4000000", "[S_1]", "[EOS]", "cube", "=", "v0", "\n", "v0=v0="]
    ),
    max_size=40,
)


@given(soup, st.sampled_from(["", " "]))
@settings(max_examples=100)
def test_any_soup_of_tokens_is_read_and_every_piece_is_a_box_or_counted(tokens, between):
    boxes = modality("boxes", text={"coordinate_bins": BINS, "vocabulary_size": 1000})
    text = between.join(tokens)
    value = boxes.denormalise(text)
    pieces = len(re.findall(r"v0\s*=", text))
    assert pieces <= len(value) + value.dropped <= pieces + 1  # what stands before the first counts as one
    boxes.render(value)
    boxes.normalise(value)


def test_what_was_dropped_is_said_of_the_value_and_counted_by_a_metric():
    boxes = modality("boxes")
    good = boxes.denormalise("v0=1 v1=2 v2=3 v3=4 cube")
    bad = boxes.denormalise("v0=1 v1=2 v2=3 v3=4 cube v0=7 v1 v0=3")
    assert (labels(bad), good.dropped, bad.dropped) == (["cube"], 0, 2)
    assert boxes.remark(good) == ""
    assert boxes.remark(bad) == "2 pieces of the generated text were no box, dropped"
    assert boxes.remark(THREE) == ""
    (metric,) = (m for m in boxes.metrics() if m.name == "dropped")
    assert metric.compute([good, bad], [THREE, THREE]) == 1
    assert metric.compute([THREE], [THREE]) == 0
    assert not metric.higher_is_better


def test_nan_scores_and_huge_numbers_do_not_get_into_a_picture():
    value = modality("boxes").denormalise("v0=0 v1=0 v2=9999999 v3=9999999 cube")
    assert (list(value), value.dropped) == ([], 1)
    assert np.asarray(modality("boxes").render(value)).shape == (256, 256, 3)


def test_a_generated_box_has_the_mean_probability_of_its_tokens_as_its_score():
    boxes = modality("boxes", text={"coordinate_bins": BINS})
    one, two = [("v0=1", 0.5), ("v1=2", 0.5), ("v2=30", 0.5), ("v3=40", 0.5), ("cu", 0.25), ("##be", 1.0)], [
        ("v0=7", 1.0), ("v1=8", 1.0), ("v2=70", 0.1), ("v3=80", 1.0), ("cone", 0.1),
    ]  # fmt: skip
    text = "v0=1 v1=2 v2=30 v3=40 cube v0=7 v1=8 v2=70 v3=80 cone"
    found = boxes.denormalise_scored(text, [*one, *two])
    assert [(box.label, box.score) for box in found] == [("cube", 0.5), ("cone", round(0.01**0.2, 4))]
    # A piece that is no box keeps its place, so that no score moves to another box.
    broken = boxes.denormalise_scored(f"v0=3 {text}", [("v0=3", 0.9), *one, *two])
    assert ([box.score for box in broken], broken.dropped) == ([box.score for box in found], 1)
    early = boxes.denormalise_scored(f"cone {text}", [("cone", 0.9), *one, *two])
    assert ([box.score for box in early], early.dropped) == ([box.score for box in found], 1)


def test_uncertain_mistakes_cost_less_than_certain_ones():
    (metric,) = (m for m in modality("boxes").metrics() if m.name == "AP50, class ignored")
    right, wrong = Box("a", 0.0, 0.0, 0.5, 0.5), Box("a", 0.6, 0.6, 0.9, 0.9)
    scores = [[replace(right, score=x), replace(wrong, score=1 - x)] for x in (0.9, 0.1)]
    assert [metric.compute([one], [[right]]) for one in scores] == [1.0, 0.5]


def test_half_a_character_in_a_label_does_not_stop_the_drawing():
    from fourm_boxes.drawing import draw_boxes

    assert draw_boxes([Box("cat\ud800", 0.1, 0.1, 0.9, 0.9)]).size == (256, 256)

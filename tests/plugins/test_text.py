"""Captions and boxes: what views do to them, and boxes as text."""

import numpy as np
import pytest
from fourm_boxes import Box, parse_boxes, write_boxes
from hypothesis import given, settings
from hypothesis import strategies as st

from fourm_plugins import SampleError, View
from tests.plugins.instances import modality


def test_a_view_takes_one_caption_and_a_flipped_one_swaps_the_sides():
    caption = modality("caption")
    value = caption.read({"txt": b"a cup on the Left\n\n  the   rightmost chair, upright \n"})
    assert value == ("a cup on the Left", "the rightmost chair, upright")
    assert caption.augment(value, View(variant=2)) == "a cup on the Left"
    assert caption.augment(value, View(variant=0, flip=True)) == "a cup on the Right"
    assert caption.augment(value, View(variant=3, flip=True)) == "the leftmost chair, upright"
    assert caption.augment("from LEFT to right", View(flip=True)) == "from RIGHT to left"
    assert caption.augment("copyright is bright, nobody left it", View(flip=True)).startswith("copyright is bright")


def test_captions_keep_other_scripts_and_a_byte_order_mark_is_no_word():
    assert modality("caption").read({"txt": "\ufeffein grüner Würfel\n立方体".encode()}) == (
        "ein grüner Würfel",
        "立方体",
    )


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("within", ["\u2028", "\u2029", "\u0085", "\v", "\f", "\x1c"])
def test_a_line_of_text_ends_where_lines_end_and_nowhere_else(end, within):
    text = f"one sentence{within}that goes on{end}{end}another{end}"
    assert modality("caption").read({"txt": text.encode()}) == ("one sentence that goes on", "another")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("a cat".encode("utf-16"), "caption is UTF-16, not UTF-8; save it as UTF-8 (iconv -f UTF-16 -t UTF-8)"),
        ("a cat".encode("utf-32"), "caption is UTF-32, not UTF-8"),
        ("café".encode("latin-1"), "caption is not UTF-8: byte 0xe9 at 3; save it as UTF-8"),
        ("a cat".encode("utf-16-le"), "not a text file, or not UTF-8"),
        (b"good\nalso good\n" + b"word " * 1000 + b"\nlast", "caption of 4999 characters in line 3"),
    ],
)
def test_text_in_another_encoding_is_named_with_the_remedy_and_a_bad_line_by_its_number(content, reason):
    with pytest.raises(SampleError) as caught:
        modality("caption").read({"txt": content})
    assert reason in str(caught.value)


def test_boxes_are_written_by_distance_from_the_upper_left_corner():
    text = write_boxes([Box("far cup", 0.5, 0.5, 1, 1), Box("near", 0.0, 0.25, 0.5, 0.999)])
    assert text == "v0=0 v1=250 v2=500 v3=998 near v0=500 v1=500 v2=999 v3=999 far cup"


corner = st.floats(0, 1)
labels = st.text("abcÄé立0123v- '", min_size=1, max_size=8)
box = st.builds(
    lambda label, x0, y0, x1, y1: Box(label, min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)),
    labels.filter(lambda s: " ".join(s.split()) == s),
    *[corner] * 4,
)


@given(st.lists(box, max_size=5), st.sampled_from([10, 100, 1000]))
@settings(deadline=None)
def test_boxes_come_back_from_their_text_to_within_a_bin_and_a_half(given_boxes, bins):
    parsed, dropped = parse_boxes(write_boxes(given_boxes, bins=bins), bins=bins)
    assert dropped == 0
    assert sorted(b.label for b in parsed) == sorted(b.label for b in given_boxes)
    assert write_boxes(parsed, bins=bins).count("v0=") == len(given_boxes)
    for b in given_boxes:
        near = [p for p in parsed if p.label == b.label]
        off = min(max(abs(p.x0 - b.x0), abs(p.y0 - b.y0), abs(p.x1 - b.x1), abs(p.y1 - b.y1)) for p in near)
        assert off <= 1.501 / (bins - 1)


pieces = st.sampled_from(["v0=1", "v1=20", "v2=50", "v3=70", "v0=999", "v3=5000", "cube", "=", "v0", "[UNK]", "v0="])


@given(st.lists(pieces, max_size=30).map(" ".join) | st.text("v0123=- a立\n", max_size=60))
@settings(deadline=None)
def test_any_generated_text_parses_to_proper_boxes(text):
    parsed, dropped = parse_boxes(text)
    for b in parsed:
        assert 0 <= b.x0 < b.x1 <= 1
        assert 0 <= b.y0 < b.y1 <= 1
        assert b.label
    assert dropped >= 0
    assert modality("boxes").denormalise(text) == parsed


@pytest.mark.parametrize(
    ("text", "labels", "found", "dropped"),
    [
        ("", (), [], 0),
        ("cube", (), [], 1),
        ("v0=1 v1=2 v2=3 v3=4 cube v0=1 v1=2", (), ["cube"], 1),
        ("v0=1 v1=2 v2=3 v3=4 v0=1 v1=2 v2=3 v3=4 cone", (), ["cone"], 1),
        ("v0=9 v1=2 v2=3 v3=4 cube", (), [], 1),
        ("v0=1 v1=2 v2=3 v3=1000 cube", (), [], 1),
        ("v0=1 v1=2 v2=3 v3=4 cube v0=1 v1=2 v2=3 v3=4 dog", ("cube",), ["cube"], 1),
        ("v0 = 1 v1 = 2 v2 = 3 v3 = 4 t - shirt", ("T-shirt",), ["T-shirt"], 0),
    ],
)
def test_what_does_not_parse_is_dropped_and_counted(text, labels, found, dropped):
    parsed, lost = parse_boxes(text, labels=labels)
    assert [b.label for b in parsed] == found
    assert lost == dropped


def test_a_crop_cuts_boxes_and_leaves_out_those_hardly_seen():
    boxes = modality("boxes", min_visible=0.3)
    value = [Box("in", 0.1, 0.1, 0.3, 0.3), Box("half", 0.4, 0.0, 0.6, 0.2), Box("hardly", 0.48, 0.5, 0.9, 0.9)]
    seen = boxes.augment(value, View(0, 0, 0.5, 0.5, flip=True))
    assert [b.label for b in seen] == ["in", "half"]
    assert np.allclose([seen[0].x0, seen[0].y0, seen[0].x1, seen[0].y1], [0.4, 0.2, 0.8, 0.6])
    assert np.allclose([seen[1].x0, seen[1].y0, seen[1].x1, seen[1].y1], [0, 0, 0.2, 0.4])


def test_only_the_largest_boxes_are_kept():
    boxes = modality("boxes", max_boxes=2)
    value = [Box(f"b{i}", 0.1, 0.1, 0.1 + i / 10, 0.9) for i in range(1, 6)]
    assert sorted(b.label for b in boxes.denormalise(boxes.normalise(value))) == ["b4", "b5"]


def test_a_label_that_may_not_occur_is_refused_and_no_box_is_fine():
    boxes = modality("boxes", labels=["cube"])
    with pytest.raises(SampleError, match="'dog', which is none of the 1 label"):
        boxes.read({"json": b'[{"label": "dog", "bbox": [0, 0, 1, 1]}]'})
    assert boxes.read({"json": b"[]"}) == []
    assert boxes.normalise([]) == ""


def test_scores_are_kept_in_files():
    boxes = modality("boxes")
    value = [Box("a", 0, 0, 1, 1, score=0.5)]
    assert boxes.read(boxes.write(value)) == value


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_boxes_are_json_in_any_encoding_of_it(encoding):
    text = '[{"label": "Männchen", "bbox": [0, 0, 1, 1]}]'
    assert [b.label for b in modality("boxes").read({"json": text.encode(encoding)})] == ["Männchen"]


def test_a_list_of_boxes_with_one_bad_entry_is_refused_and_the_entry_is_named():
    """Without it the model would learn that nothing is there."""
    content = b'[{"label": "a", "bbox": [0, 0, 1, 1]}, {"label": "b", "bbox": [0, 0, 1]}]'
    with pytest.raises(SampleError, match=r"box 1 \(b\) needs bbox: four numbers"):
        modality("boxes").read({"json": content})

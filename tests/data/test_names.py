"""Names of samples and what is told of those that do not pair up."""

from __future__ import annotations

import pytest

from fourm_engine.data.raw.names import is_archive, is_litter, plain, split, wrapping
from fourm_engine.data.raw.pairing import difference, unpaired


@pytest.mark.parametrize("text", ["caf\udce9\n", "\u202e\x1b[31m", "cafe\u0301", "a\\xe9", "e\u0301\u2029"])
def test_a_plain_name_stays_as_it_is_and_can_be_stored(text):
    assert plain(plain(text)) == plain(text)
    assert len(plain(text).encode().splitlines()) == 1


def test_extensions_count_in_capitals_too_and_the_longest_wins():
    assert split("x/IMG_1.JPeG", ("jpg", "jpeg")) == ("x/IMG_1", "jpeg")
    assert split("a.boxes.json", ("json", "boxes.json")) == ("a", "boxes.json")
    assert split("a.tif", ("png",)) is None


def test_archives_and_litter_are_known_by_name():
    assert is_archive("a.TAR.GZ")
    assert is_archive("b.tbz2")
    assert not is_archive("c.tar")
    assert is_litter("x/.hidden/a.png")
    assert is_litter("thumbs.DB")
    assert not is_litter("x/a..png")


def test_only_a_folder_about_all_names_is_taken_off():
    assert wrapping(["rgb/1", "rgb/2"], "rgb") == "rgb/"
    assert wrapping(["data/rgb/1", "data/rgb/x/2"], "rgb") == "data/rgb/"
    assert wrapping(["rgb/1", "2"], "rgb") == ""
    assert wrapping(["myrgb/1"], "rgb") == ""
    assert wrapping([], "rgb") == ""


PAIRS = {
    "capital letters": (["IMG_1", "IMG_2"], ["img_1", "img_2"]),
    "an extension within the name": (["1.jpg", "2.jpg"], ["1", "2"]),
    "a beginning or an end that all share": (["1_leftImg8bit", "2_leftImg8bit"], ["1_gt", "2_gt"]),
    "leading zeros": (["0001", "0002"], ["1", "2"]),
    "a folder": (["images/1", "images/2"], ["1", "2"]),
    "their encoding": (["caf\\xe9"], ["caf\u00e9"]),
    "characters that look alike": (["10.15\u202fAM"], ["10.15 AM"]),
    "capitals, spaces or punctuation": (["My File-1"], ["my_file_1"]),
}


@pytest.mark.parametrize("what", PAIRS)
def test_what_names_differ_in_is_told(what):
    mine, theirs = PAIRS[what]
    assert difference(mine, theirs) == (len(mine), what, mine[0], theirs[0])


@pytest.mark.parametrize(("mine", "theirs"), [(["a1"], ["b2"]), (["day1/1"], ["day2/1"]), ([], ["a"])])
def test_names_that_have_nothing_in_common_are_no_mistake(mine, theirs):
    assert difference(mine, theirs) is None


def test_a_line_for_each_pair_of_sources():
    lines = unpaired({"rgb": {"A", "b", "c"}, "depth": {"a", "b"}, "caption": {"b"}})
    assert lines == ["names of depth and rgb that differ in capital letters alone: 1, such as a and A; name them alike"]

"""Which pictures may show the same: one rule, whoever compares."""

from __future__ import annotations

import numpy as np
import pytest

from fourm_engine.data.raw.aspect import Vote, array_aspect, check_aspect, same_aspect
from fourm_plugins import SampleError, View
from tests.fakes import fake_modalities


@pytest.mark.parametrize(("small", "large"), [((33, 25), (1312, 992)), ((64, 43), (6000, 4000)), ((50, 50), (51, 50))])
def test_a_picture_and_its_rounded_copy_have_one_aspect(small, large):
    assert same_aspect(small[0] / small[1], large[0] / large[1])


@pytest.mark.parametrize(("first", "second"), [(4 / 3, 3 / 4), (4 / 3, 16 / 9), (1.0, 1.04)])
def test_turned_and_cropped_pictures_have_another(first, second):
    assert not same_aspect(first, second)


def test_a_value_is_held_to_the_picture_that_its_view_was_drawn_for():
    modality = fake_modalities(["a"])["a"]
    target = array_aspect(modality.spec)
    value = np.zeros((20, 40), np.float32)
    aspect = modality.aspect(value)
    check_aspect(modality, value, View.centre(source_aspect=aspect, target_aspect=target))
    with pytest.raises(SampleError, match=r"but 0\.500 in the picture that it belongs to"):
        check_aspect(modality, value, View.centre(source_aspect=1 / aspect, target_aspect=target))


def test_most_files_say_the_shape_of_a_sample_then_those_of_more_modalities_then_the_first():
    vote = Vote()
    vote.add("a", 0.75, 1)
    assert (vote.decided(0), vote.decided(1)) == (True, False)
    vote.add("b", 1.33, 1)
    assert [shape.files for shape in vote.ranked()] == [["a"], ["b"]]
    vote.add("c", 1.34, 3)
    assert [shape.files for shape in vote.ranked()] == [["b", "c"], ["a"]]
    vote.add("d", 0.75, 1)
    assert vote.ranked()[0].aspect == 1.33

"""Views: crops stay inside the picture, keep pixels square, and survive storage."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourm_plugins import View

aspects = st.floats(0.2, 5.0)


@given(aspects, aspects, st.integers(0, 2**32 - 1))
def test_a_random_crop_lies_inside_and_has_the_asked_aspect(source, target, seed):
    view = View.random(np.random.default_rng(seed), source_aspect=source, target_aspect=target)
    assert 0 <= view.top <= view.top + view.height <= 1 + 1e-6
    assert 0 <= view.left <= view.left + view.width <= 1 + 1e-6
    assert view.width * source / view.height == pytest.approx(target, rel=1e-6)


@given(aspects, aspects)
def test_the_centre_crop_touches_both_edges_of_one_side(source, target):
    view = View.centre(source_aspect=source, target_aspect=target)
    assert max(view.height, view.width) == pytest.approx(1.0)
    assert view.top + view.height / 2 == pytest.approx(0.5)


@given(aspects, st.integers(0, 2**32 - 1))
def test_a_view_survives_storage_as_float32(source, seed):
    view = View.random(np.random.default_rng(seed), source_aspect=source, variant=3)
    again = View.from_row(np.asarray(view.to_row(), np.float32))
    assert (again.flip, again.variant) == (view.flip, 3)
    assert again.to_row() == pytest.approx(view.to_row(), abs=1e-6)


def test_a_flip_mirrors_boxes():
    assert View(flip=True).box(0.1, 0.2, 0.4, 0.6) == pytest.approx((0.6, 0.2, 0.9, 0.6))
    assert View(left=0.5, width=0.5).box(0.5, 0.0, 1.0, 1.0) == pytest.approx((0, 0, 1, 1))


def test_a_view_outside_the_picture_is_refused():
    with pytest.raises(ValueError, match="outside the picture"):
        View(left=0.6, width=0.5)

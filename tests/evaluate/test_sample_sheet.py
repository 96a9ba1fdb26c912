"""The sheet of one sample: a crop is seen on any colour and hides little."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fourm_engine.evaluate.sample_sheet import RED, is_whole, mask_counts, with_crop
from fourm_engine.evaluate.sample_sheet import ShownModality as Shown
from fourm_plugins import View


@pytest.mark.parametrize("colour", [RED, (255, 255, 255), (0, 0, 0)])
@pytest.mark.parametrize("side", [32, 640])
def test_the_frame_of_a_crop_is_seen_on_any_colour_and_hides_little(colour, side):
    plain = Image.new("RGB", (side, side), colour)
    framed = np.asarray(with_crop(plain, View(0.25, 0.25, 0.5, 0.5)))
    other = (framed != np.array(colour, np.uint8)).any(-1)
    assert min(other.shape) >= 256
    assert 0.005 < other.mean() < 0.06
    scale = len(framed) / 4
    rows, columns = np.nonzero(other)
    assert np.allclose([rows.min(), rows.max(), columns.min(), columns.max()], np.array([1, 3, 1, 3]) * scale, atol=8)


def test_a_crop_that_shows_all_is_not_drawn():
    assert is_whole(View(0, 0, 1, 1))
    assert not is_whole(View(0, 0, 1, 0.9))


def test_a_heading_leaves_out_what_is_none():
    one = Shown("a", taken=(0, 3), states=np.array([0, 1, 2]))
    assert mask_counts(one, zeros=False).startswith("3 target")
    assert mask_counts(one).startswith("0 input, 3 target")

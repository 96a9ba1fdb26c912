"""Several values of a modality made one, and how far they lie apart."""

from __future__ import annotations

import numpy as np
import pytest

from fourm_plugins import reductions
from tests.plugins.instances import modality


def test_classes_are_voted_on_pixel_by_pixel_and_no_class_is_no_vote_against():
    semseg = modality("semseg")
    values = [np.array(rows, np.int64) for rows in ([[0, 1, -1]], [[0, 2, -1]], [[1, 2, 3]])]
    assert semseg.reductions == ("vote",)
    assert semseg.reduce(values, "vote").tolist() == [[0, 2, -1]]
    assert semseg.reduce(values[:2], "vote").tolist() == [[0, 1, -1]]  # of equals the first
    assert semseg.spread(values) == pytest.approx(np.array([[1 / 3, 1 / 3, np.nan]]), nan_ok=True)
    assert 2 * semseg.spread(values[:2]) == pytest.approx(np.array([[0, 1, np.nan]]), nan_ok=True)


def test_normals_stay_unit_vectors_and_differ_by_degrees():
    normal = modality("normal")
    up, right = np.zeros((1, 2, 3), np.float32), np.zeros((1, 2, 3), np.float32)
    up[..., 1], right[..., 0] = 1, 1
    for how in ("mean", "median"):
        one = normal.reduce([up, right, up, right], how)
        assert np.linalg.norm(one, axis=-1) == pytest.approx(1, abs=1e-5)
        assert one == pytest.approx(np.broadcast_to([0.5**0.5, 0.5**0.5, 0], one.shape), abs=1e-3)
    assert normal.reduce([up, up, right], "median") == pytest.approx(up, abs=1e-2)
    assert 2 * normal.spread([up, right]) == pytest.approx(np.full((1, 2), 90.0))
    assert normal.spread([up, up, up]) == pytest.approx(np.zeros((1, 2)), abs=1e-4)


def test_quantities_leave_out_what_is_unknown_and_keep_what_all_agree_in():
    depth = modality("depth")
    values = [np.array([[1.1, np.nan, x]], np.float32) for x in (2.0, 4.0, np.nan)]
    values[0][0, 1] = 7.0
    mean = depth.reduce(values, "mean")
    assert mean.dtype == np.float32
    assert mean.tolist() == [[np.float32(1.1), 7.0, 3.0]]
    assert depth.spread(values) == pytest.approx(np.array([[0, np.nan, 1.0]]), nan_ok=True)
    assert 2 * depth.spread(values[:2])[0, 2] == pytest.approx(2.0)


def test_pictures_are_rounded_rows_of_a_table_averaged_by_name_and_texts_counted():
    dark, light = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 3, np.uint8)
    mean = reductions.average([dark, light, light], "mean")
    assert (mean == 2).all()
    assert mean.dtype == np.uint8
    assert reductions.deviation([dark, light]) == pytest.approx(np.full((2, 2), 1.5 * 3**0.5))
    rows = [{"wind": 1.0, "rain": 4.0}, {"wind": 3.0, "rain": 4.0}]
    assert reductions.average(rows, "median") == {"wind": 2.0, "rain": 4.0}
    assert reductions.deviation(rows) == {"wind": 1.0, "rain": 0.0}
    assert reductions.vote(["a", "b", "b"]) == ("b", 2 / 3)
    assert modality("caption").spread(["a", "b", "b"]) == pytest.approx(1 / 3)
    assert modality("boxes").reductions == ("vote",)

"""Numbers of files that no float32 computes with are refused by where they are, and never become others silently."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest

from fourm_plugins.errors import SampleError
from tests.plugins.instances import modality

SHAPES = {"depth": (64, 64), "clip": (8, 8, 16)}


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("number", [1e38, 1e300, -1e38, -np.inf])
@pytest.mark.parametrize("name", SHAPES)
def test_a_number_beyond_all_measure_is_named_and_never_computed_with(name, number, dtype):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        number = dtype(number)
    array = np.ones(SHAPES[name], dtype)
    array[3, 4] = number
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    settings = {"channels": 16} if name == "clip" else {"normalisation": "per_image"}
    one = modality(name, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of numpy, which would tell a user of a line of ours
        if name == "depth" and number == np.inf:  # nothing was measured there
            value = one.normalise(one.read({"npy": file.getvalue()}))
            assert np.isnan(value).sum() == 1
            assert np.abs(value[np.isfinite(value)]).max() < 10
            return
        with pytest.raises(SampleError, match="row 3, column 4"):
            one.read({"npy": file.getvalue()})

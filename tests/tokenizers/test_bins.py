"""Scalars to bins and back."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from safetensors.torch import save_file

from fourm_engine.tokenizers.bins import BinsTokenizer
from fourm_plugins import FeatureVector, Grid, ModalitySpec, TokenizerRecipe, TokenSpace, Vector


def spec(scalars=2, codes=8, *, gaps=False, layout=None):
    return ModalitySpec(
        name="weather",
        layout=layout or Vector(length=scalars),
        array=FeatureVector(size=scalars, gaps=gaps),
        token_space=TokenSpace(name="weather", size=codes),
        tokenizer=TokenizerRecipe(kind="bins"),
        source="weather",
        extensions=("json",),
    )


def fitted(rows, *, codes=8, gaps=False, **settings):
    rows = np.asarray(rows, np.float32)
    tokenizer = BinsTokenizer([spec(rows.shape[1], codes, gaps=gaps)], **settings)
    report = tokenizer.fit(lambda: iter(rows))
    return tokenizer, report


def column(values):
    return np.asarray(values, np.float32)[:, None]


def test_uniform_bins_have_equal_width_and_their_centres_stand_for_them():
    tokenizer, report = fitted(column([0, 3, 8]))
    found = np.concatenate(tokenizer.encode(list(column([0, 0.99, 1, 7.5, 8, -5, 99]))))
    assert found.tolist() == [0, 0, 1, 7, 7, 0, 7]
    assert np.concatenate(tokenizer.decode([np.array([i]) for i in range(8)])).tolist() == [i + 0.5 for i in range(8)]
    assert report == {"outside": 0.0}


def test_log_bins_have_equal_ratio():
    tokenizer, _ = fitted(column([1, 256]), spacing="log")
    assert [int(ids[0]) for ids in tokenizer.encode(list(column([1.1, 1.9, 2.1, 100, 200])))] == [0, 0, 1, 6, 7]
    decoded = np.concatenate(tokenizer.decode([np.array([i]) for i in range(8)]))
    np.testing.assert_allclose(decoded, 2.0 ** (np.arange(8) + 0.5), rtol=1e-6)


def test_quantile_bins_hold_equally_many_values_and_their_medians_stand_for_them():
    values = np.random.default_rng(0).lognormal(0, 2, 803).astype(np.float32)
    tokenizer, _ = fitted(column(values), spacing="quantile")
    ids = np.concatenate(tokenizer.encode(list(column(values))))
    assert set(np.bincount(ids, minlength=8)) <= {100, 101}
    for id_ in range(8):
        mine = np.sort(values[ids == id_])
        assert tokenizer.decode([np.array([id_])])[0][0] == mine[(len(mine) - 1) // 2]


def test_equal_values_share_a_quantile_bin_and_the_others_divide_the_rest():
    tokenizer, _ = fitted(column([0] * 90 + list(range(1, 15))), spacing="quantile")
    ids = np.concatenate(tokenizer.encode(list(column([0, 0.5, *range(1, 15)]))))
    assert ids.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7]
    few, _ = fitted(column([0] * 5 + [1] * 5), spacing="quantile")
    assert np.concatenate(few.encode(list(column([0, 1])))).tolist() == [0, 1]
    assert np.concatenate(few.decode([np.array([i]) for i in range(8)])).tolist() == [0, 1, 1, 1, 1, 1, 1, 1]


@settings(max_examples=60, deadline=None)
@given(
    rows=arrays_of.arrays(np.float32, (20, 2), elements=st.floats(0.125, 1e4, width=32), unique=True),
    new=arrays_of.arrays(np.float32, (5, 2), elements=st.floats(-1e5, 1e5, width=32)),
    spacing=st.sampled_from(["uniform", "log", "quantile"]),
)
def test_what_is_decoded_is_encoded_alike_and_ids_rise_with_values(rows, new, spacing):
    ends = {} if spacing == "quantile" else {"low": 0.1, "high": 2e4}
    tokenizer, _ = fitted(rows, spacing=spacing, **ends)
    ids = np.stack(tokenizer.encode(list(new)))
    assert ids.dtype == np.int64
    assert 0 <= ids.min() <= ids.max() < 8
    again = np.stack(tokenizer.encode(tokenizer.decode(list(ids))))
    assert np.array_equal(again, ids)
    order = np.argsort(new, axis=0)
    assert (np.diff(np.take_along_axis(ids, order, 0), axis=0) >= 0).all()
    slow = [[int((tokenizer.edges[s] <= row[s]).sum()) for s in range(2)] for row in new]
    assert ids.tolist() == slow


def test_each_scalar_has_bins_of_its_own():
    tokenizer, report = fitted([[0, 100], [8, 108]], low=(0.0, 90.0), high=(8.0, 106.0))
    assert tokenizer.encode([np.array([1, 101], np.float32)])[0].tolist() == [1, 5]
    assert report["outside"] == 0.25


def test_a_missing_scalar_has_an_id_of_its_own_and_stays_missing():
    rows = [[0, np.nan], [7, 1], [3, 8]]
    tokenizer, _ = fitted(rows, gaps=True)
    assert tokenizer.bins == 7
    ids = tokenizer.encode([np.array([7, np.nan], np.float32)])[0]
    assert ids.tolist() == [6, 7]
    decoded = tokenizer.decode([ids])[0]
    assert decoded[0] == 6.5
    assert np.isnan(decoded[1])
    with pytest.raises(ValueError, match=r"weather: .*nothing but NaN"):
        tokenizer.encode([np.full(2, np.nan, np.float32)])
    with pytest.raises(ValueError, match="weather: 1 value is NaN"):
        fitted([[0, 1], [1, 2]])[0].encode([np.array([1, np.nan], np.float32)])


def test_expected_decoding_is_the_mean_of_the_bins_that_are_not_gaps():
    tokenizer, _ = fitted([[0, 0], [7, 7]], gaps=True)
    probabilities = np.zeros((1, 2, 8), np.float32)
    probabilities[0, 0, [1, 3, 7]] = 0.3, 0.3, 0.4
    probabilities[0, 1, [1, 7]] = 0.4, 0.6
    (found,) = tokenizer.decode_expected(probabilities)
    assert found[0] == pytest.approx(2.5)
    assert np.isnan(found[1])
    assert found.dtype == np.float32
    certain = np.eye(8, dtype=np.float32)[np.array([[2, 5]])]
    assert np.array_equal(tokenizer.decode_expected(certain)[0], tokenizer.decode([np.array([2, 5])])[0])


def test_bins_survive_save_and_load(tmp_path):
    tokenizer, _ = fitted(np.random.default_rng(0).normal(size=(50, 3)), spacing="quantile")
    tokenizer.save(tmp_path)
    again = BinsTokenizer([spec(3)], spacing="quantile")
    assert again.fingerprint != tokenizer.fingerprint
    again.load(tmp_path)
    assert again.fingerprint == tokenizer.fingerprint
    with pytest.raises(ValueError, match=r"bins\.safetensors: edges has shape \(3, 7\), expected \(2, 7\)"):
        BinsTokenizer([spec(2)], spacing="quantile").load(tmp_path)
    path = tmp_path / "bins.safetensors"
    save_file({name: torch.zeros(3, 7, dtype=torch.bfloat16) for name in ("edges", "values")}, path)
    with pytest.raises(ValueError, match=r"bins\.safetensors: cannot be read .*BFloat16"):
        again.load(tmp_path)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"bins\.safetensors: cannot be read"):
        again.load(tmp_path)


WRONG = [
    (column([0, 5]), {"spacing": "log"}, "scalar 0 reaches down to 0; log bins need a positive `low`"),
    (column([3, 3]), {}, "scalar 0: 8 bins do not fit between 3 and 3"),
    (column([3, 4]), {"low": 5.0}, "8 bins do not fit between 5 and 4"),
    (column([3, 4]), {"spacing": "quantile"}, "2 training values for 8 quantile bins"),
    (column([3, 4]), {"spacing": "quantile", "low": 1.0}, "do not go with spacing 'quantile'"),
    (column([3, 4]), {"low": (1.0, 2.0)}, "low has 2 numbers for 1 scalars"),
]


@pytest.mark.parametrize(("rows", "settings", "message"), WRONG)
def test_bins_that_cannot_be_placed_are_refused_with_a_reason(rows, settings, message):
    with pytest.raises(ValueError, match=message):
        fitted(rows, **settings)


def test_a_scalar_that_is_always_missing_needs_a_range():
    rows = [[1, np.nan], [2, np.nan]]
    with pytest.raises(ValueError, match="scalar 1 is missing in every training sample; set low"):
        fitted(rows, gaps=True)
    tokenizer, _ = fitted(rows, gaps=True, low=0.0, high=7.0)
    assert tokenizer.encode([np.array([1, 3], np.float32)])[0].tolist() == [1, 3]


def test_arrays_and_ids_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="as many scalars as there are tokens"):
        BinsTokenizer([spec(4, layout=Vector(length=2))])
    with pytest.raises(ValueError, match="no two bins"):
        BinsTokenizer([spec(codes=2, gaps=True)])
    tokenizer, _ = fitted([[0, 1], [8, 9]])
    with pytest.raises(ValueError, match=r"weather: ids 0…8 are not in \[0, 8\)"):
        tokenizer.decode([np.array([0, 8])])
    with pytest.raises(ValueError, match=r"weather: tokens of shape \(3,\), expected \(2,\)"):
        tokenizer.decode([np.zeros(3, np.int64)])
    with pytest.raises(ValueError, match=r"grid needs a feature map"):
        spec(layout=Grid(height=1, width=2))


def test_a_spec_with_gaps_has_a_number_for_them():
    assert ModalitySpec.model_validate(spec(gaps=True).model_dump()).array.gaps
    with pytest.raises(ValueError, match="no number for a gap"):
        ModalitySpec(**spec(gaps=True).model_dump() | {"token_space": None, "tokenizer": None, "target": False})

"""Several samples of one input: one encoding, made one by a mean, a median, a vote or a scorer, with their spread."""

from __future__ import annotations

import re

import numpy as np
import pytest

import fourm_engine as fm
from fourm_engine.convert.absent import absent_tokenizers
from fourm_engine.generate.input_types import Condition
from fourm_engine.generate.result import Generated
from tests.generate.toys import heights, picture

COLOUR = {"colour": picture()}


def test_samples_share_the_reading_and_the_encoding_of_their_input(toys, monkeypatch):
    rows, reads, encode, read = [], [], toys.network.encode, toys.reader.read
    monkeypatch.setattr(toys.network, "encode", lambda t, c: (rows.append(len(t.mod)), encode(t, c))[1])
    monkeypatch.setattr(toys.reader, "read", lambda *a, **k: (reads.append(1), read(*a, **k))[1])
    results = toys.generate(COLOUR, "words", n_samples=10)
    assert rows == [1]
    assert reads == [1]
    assert len(results.samples) == 10
    assert results["words"].tokens.tolist() == results.samples[0]["words"].tokens.tolist()


def test_sample_i_is_that_of_seed_i_whatever_the_batch(toys):
    drawn = toys.generate(COLOUR, "height", n_samples=5, seed=3, batch_size=2)
    alone = [toys.generate(COLOUR, "height", seed=3 + i, temperature=1.0, steps=8) for i in range(5)]
    assert [s["height"].tokens.tolist() for s in drawn.samples] == [s["height"].tokens.tolist() for s in alone]
    batch = toys.generate_batch([{"colour": picture(1)}, COLOUR], "height", n_samples=2, seed=7)
    assert len(batch) == 2
    again = toys.generate(COLOUR, "height", n_samples=2, seed=9)
    assert [s["height"].tokens.tolist() for s in batch[1].samples] == [
        s["height"].tokens.tolist() for s in again.samples
    ]


@pytest.mark.parametrize(("how", "function"), [("mean", np.mean), ("median", np.median)])
def test_quantities_are_reduced_place_by_place_and_the_spread_is_their_deviation(toys, how, function):
    out = toys.generate(COLOUR, "height", n_samples=4, reduce=how)
    values = np.stack([s["height"].value for s in out.samples]).astype(np.float64)
    one = out["height"]
    assert one.value == pytest.approx(function(values, axis=0), abs=1e-6)
    assert one.value.dtype == np.float32
    assert one.spread == pytest.approx(values.std(axis=0), abs=1e-6)
    assert one.decoded_from == how
    assert one.tokens.tolist() in [s["height"].tokens.tolist() for s in out.samples]
    assert one.spread.max() > 0


def test_the_samples_agree_in_what_an_edit_keeps(toys):
    keep = np.ones((8, 8), bool)
    keep[:4] = False
    given = heights()
    out = toys.generate({"height": Condition(given, keep=keep)}, "height", n_samples=3, reduce="mean")["height"]
    assert np.array_equal(out.value[keep], given[keep])
    assert (out.spread[keep] == 0).all()
    assert (out.spread[~keep] > 0).any()


def test_texts_are_voted_on_and_targets_may_be_reduced_each_in_its_way(toys):
    out = toys.generate(COLOUR, ["height", "words"], n_samples=4, reduce={"words": "vote"})
    texts = [s["words"].value for s in out.samples]
    most = max(texts.count(text) for text in texts)
    assert texts.count(out["words"].value) == most
    assert out["words"].spread == 1 - most / 4
    assert out["height"].spread is None
    assert np.array_equal(out["height"].value, out.samples[0]["height"].value)


def test_the_best_of_several_is_that_of_the_highest_score(toys):
    out = toys.generate(COLOUR, "height", n_samples=5, best=lambda result: -result["height"].value.sum())
    sums = [s["height"].value.sum() for s in out.samples]
    assert out["height"].value.sum() == min(sums)
    assert out.scores == pytest.approx([-x for x in sums])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reduce": "mean"}, "reduce has no effect on one sample; raise n_samples"),
        ({"best": len}, "best has no effect on one sample"),
        ({"n_samples": 0}, "n_samples is a number from 1 to 1000; given: 0"),
        ({"n_samples": 2.0}, "n_samples is a number from 1 to 1000; given: 2.0"),
        ({"n_samples": 1001}, "n_samples is a number from 1 to 1000; given: 1001"),
        ({"n_samples": 2, "reduce": "vote"}, "reduce='vote' does not apply to 'height'; choose mean or median"),
        ({"n_samples": 2, "reduce": "avg"}, "reduce='avg' does not apply to 'height'"),
        ({"n_samples": 2, "reduce": {"depth": "mean"}}, "reduce: 'depth' is not a target; targets: height"),
        ({"n_samples": 2, "reduce": 3}, "reduce is 'mean', 'median' or 'vote', or {target"),
        ({"n_samples": 2, "reduce": "mean", "best": len}, "reduce and best are alternatives"),
        ({"n_samples": 2, "best": "clip"}, "best is a function that scores the results of a sample"),
        ({"n_samples": 2, "best": lambda r: None}, "best: the scorer returns None, not a number"),
        ({"n_samples": 2, "best": lambda r: float("nan")}, "best: the scorer returns NaN"),
        ({"n_samples": 2, "temperature": 0}, "2 samples of one input with a plan that draws nothing"),
        (
            {"n_samples": 2, "temperature": 0, "scheme": "halton"},
            "2 samples of one input with a plan that draws nothing",
        ),
    ],
)
def test_what_cannot_be_made_of_samples_is_refused_in_one_line(toys, options, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        toys.generate(COLOUR, "height", **options)
    assert "\n" not in str(caught.value)


def test_calibration_tells_whether_spread_predicts_error(toys):
    height = toys.modalities["height"]
    rng = np.random.default_rng(0)
    spread = rng.uniform(0.01, 1, (8, 8))
    truth = rng.normal(size=(8, 8)).astype(np.float32)
    wrong = (truth + spread * rng.choice([-1, 1], (8, 8))).astype(np.float32)

    def result(spread):
        return Generated(height, np.arange(16), wrong, "mean", None, spread)

    told = fm.calibration(result(spread), truth, groups=4)
    assert told.correlation == pytest.approx(1.0, abs=1e-3)
    assert told.error == pytest.approx(told.spread, abs=1e-5)
    assert told.elements == 64
    assert list(told.spread) == sorted(told.spread)
    assert fm.calibration(result(-spread), truth).correlation == pytest.approx(-1.0, abs=1e-3)
    assert fm.calibration(result(np.ones((8, 8))), truth).correlation == 0.0
    both = fm.calibration([result(spread)] * 2, [truth] * 2)
    assert both.elements == 128
    unknown = np.where(np.arange(64).reshape(8, 8) < 32, np.nan, truth).astype(np.float32)
    assert fm.calibration(result(spread), unknown).elements == 32
    assert repr(told).startswith("<Calibration: rank correlation 1.00, 64 elements; ")


def test_calibration_needs_a_spread_and_a_truth_of_its_size(toys):
    out = toys.generate(COLOUR, "height", n_samples=2, reduce="mean")["height"]
    with pytest.raises(ValueError, match=r"'height': the truth is of shape \(4, 4\), the result of \(8, 8\)"):
        fm.calibration(out, np.zeros((4, 4), np.float32))
    with pytest.raises(ValueError, match="'height' has no spread; generate it with n_samples and reduce"):
        fm.calibration(toys.generate(COLOUR, "height")["height"], heights())
    with pytest.raises(ValueError, match="calibration: 1 result, but 2 truths"):
        fm.calibration([out], [heights()] * 2)


def test_a_contact_sheet_holds_every_sample_and_the_spread(toys):
    few, many = (toys.generate(COLOUR, ["height", "words"], n_samples=n, reduce={"height": "mean"}) for n in (2, 4))
    one = toys.generate(COLOUR, ["height", "words"])
    assert one.grid().width < few.grid().width < many.grid().width
    assert few.grid(cell=64).width < few.grid().width
    assert few["height"].show_spread().size[0] > 0
    assert repr(few).startswith("<Results of 2 samples: <Generated 'height': float32 (8, 8)")
    with pytest.raises(ValueError, match="'height' has no spread"):
        one["height"].show_spread()


def test_what_has_no_tokenizer_cannot_be_reduced_and_that_is_said_before_anything_runs(toys, monkeypatch):
    monkeypatch.setitem(toys.tokenizers, "height", absent_tokenizers([toys.modalities["height"].spec]))
    monkeypatch.setattr(toys.sampler, "run", None)
    with pytest.raises(ValueError, match="'height' has no tokenizer here"):
        toys.generate(COLOUR, "height", n_samples=2, reduce="mean")


def test_many_results_are_a_line_each(toys):
    assert len(repr(toys.generate(COLOUR)).splitlines()) == 3

"""The Fréchet distance in the features of a model's encoder: 0 for the truth, 1 for its mean, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fourm_engine.evaluate.frechet import EncoderFrechet, encoder_metrics


class Encoder:
    """Features of a value (D,) are the value, in one token beside padding."""

    def encode(self, inputs):
        values = torch.tensor(np.stack([sample["a"] for sample in inputs]))
        x_BND = torch.stack([values, torch.full_like(values, torch.nan)], 1)
        return x_BND, torch.tensor([[True, False]] * len(inputs))


def values(count=60, seed=0, scale=1.0, shift=0.0):
    rng = np.random.default_rng(seed)
    return list(shift + scale * rng.normal(size=(count, 4)) * [4, 3, 2, 1])


def test_it_is_the_distance_of_two_normal_distributions_over_the_variance_of_the_truth():
    truths, frechet = values(), EncoderFrechet(Encoder(), "a")
    assert frechet(truths, truths) == pytest.approx(0, abs=1e-9)
    mean = np.mean(truths, axis=0)
    assert frechet([mean] * 60, truths) == pytest.approx(1)
    variance = np.cov(np.stack(truths).T).trace()
    assert frechet([x + 2 for x in truths], truths) == pytest.approx(4 * 4 / variance)
    # half the deviation about the same mean: tr(C + C/4 - 2 C/2) = tr C / 4
    assert frechet([mean + (x - mean) / 2 for x in truths], truths) == pytest.approx(0.25)


def test_components_are_fewer_for_few_samples_and_other_truths_have_others():
    frechet = EncoderFrechet(Encoder(), "a")
    few = values(12)
    frechet(few, few)
    assert frechet._basis.shape == (4, 2)
    other = values(60, seed=1, shift=3.0)
    assert frechet(other, other) == pytest.approx(0, abs=1e-9)
    assert frechet._basis.shape == (4, 4)


def test_what_has_no_distribution_is_refused():
    frechet = EncoderFrechet(Encoder(), "a")
    with pytest.raises(ValueError, match="4 samples are too few, at least 5"):
        frechet(values(4), values(4))
    with pytest.raises(ValueError, match="all true values have the same features"):
        frechet(values(), [np.ones(4)] * 60)
    with pytest.raises(ValueError, match="all true values have the same features"):  # but for how float32 rounds
        frechet(values(), values(shift=3.0, scale=1e-7))


def test_grids_that_the_model_takes_are_measured_and_nothing_else(model, held_out, tmp_path):
    metrics = encoder_metrics(tmp_path / "judge", model, ["a", "b", "words", "gone"])
    assert {name: [metric.name for metric in of_name] for name, of_name in metrics.items()} == {
        "a": ["Fréchet, judge"],
        "b": ["Fréchet, judge"],
    }
    truths = list(held_out.values["b"].values())
    assert metrics["b"][0].compute(truths, truths) == pytest.approx(0, abs=1e-6)
    assert metrics["b"][0].compute([truths[0]] * len(truths), truths) > 0.1

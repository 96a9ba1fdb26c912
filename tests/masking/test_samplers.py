"""The samplers divide totals as they say: the published Dirichlet one is compared in test_budgets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourm_engine.masking.budgets import Budgets
from fourm_engine.masking.config import Component, MaskingConfig
from fourm_engine.masking.samplers import beta_shares, dirichlet, fill, one_and_fill
from tests.fakes import fake_modalities

# Five modalities of very different lengths; of one nothing is left.
FREE = np.array([1, 4, 60, 0, 500])
ONES = np.ones(5)


@given(
    free=st.lists(st.integers(0, 40), min_size=1, max_size=6),
    total=st.integers(1, 60),
    beta=st.tuples(st.floats(0.05, 5), st.floats(0.05, 5)),
    seed=st.integers(0, 1000),
)
def test_aion_gives_no_more_than_there_is_and_something_where_anything_is(free, total, beta, seed):
    rng, free = np.random.default_rng(seed), np.array(free)
    weights = rng.random(len(free)) + 0.1
    inputs = one_and_fill(rng, weights, total, free)
    targets = beta_shares(rng, weights, total, free, beta)
    for counts in (inputs, targets):
        assert counts.dtype == np.int64
        assert (counts >= 0).all()
        assert (counts <= free).all()
        assert counts.sum() <= total
        assert (counts.sum() > 0) == (free.sum() > 0)
    # Whatever the first one takes, the others fill the rest with all that they have.
    others = free.sum() - free.max()
    assert inputs.sum() >= min(total, others)


@given(
    free=st.lists(st.integers(0, 40), min_size=1, max_size=6),
    total=st.integers(1, 60),
    alpha=st.sampled_from([1e-9, 0.05, 0.5, 10.0]),
    seed=st.integers(0, 1000),
)
def test_fill_leaves_a_token_out_only_where_all_that_is_free_is_taken(free, total, alpha, seed):
    rng, free = np.random.default_rng(seed), np.array(free)
    counts = fill(rng, np.full(len(free), alpha), total, free)
    assert counts.dtype == np.int64
    assert (counts >= 0).all()
    assert (counts <= free).all()
    assert counts.sum() == min(total, free.sum())


def test_one_modality_takes_a_uniform_number_and_the_rest_fill():
    rng, total, n = np.random.default_rng(0), 64, 20000
    first = np.array([0.0, 0.0, 1.0, 0.0, 0.0])  # as a weight of the only one that may be first
    counts = np.array([one_and_fill(rng, first, total, FREE) for _ in range(n)])
    taken = counts[:, 2]
    assert abs(taken.mean() - 30.5) < 4.5 * 17.3 / n**0.5
    histogram = np.bincount(taken, minlength=61)[1:]
    assert np.abs(histogram - n / 60).max() < 5 * (n / 60) ** 0.5
    assert (counts.sum(1) == total).all()
    # Of the others each token is as likely as any other.
    left = (total - taken).mean()
    for i in (0, 1, 4):
        assert counts[:, i].mean() == pytest.approx(left * FREE[i] / 505, rel=0.06), i


def test_the_alphas_weigh_which_modality_is_first():
    rng, weights = np.random.default_rng(0), np.array([1.0, 3.0])
    # With a total of 1 the first takes all.
    counts = np.array([one_and_fill(rng, weights, 1, np.array([50, 50])) for _ in range(4000)])
    assert abs(counts[:, 1].mean() - 0.75) < 4.5 * (0.1875 / 4000) ** 0.5


def test_shares_of_targets_are_beta_distributed_where_the_total_allows():
    rng, n, (a, b) = np.random.default_rng(0), 20000, (0.5, 1.5)
    counts = np.array([beta_shares(rng, ONES, 10_000, FREE, (a, b)) for _ in range(n)])
    shares = counts[:, [0, 1, 2, 4]] / FREE[[0, 1, 2, 4]]
    spread = (a * b / ((a + b) ** 2 * (a + b + 1))) ** 0.5
    for i, mean in enumerate(shares.mean(0)):
        # Of one token, rounding adds variance, and its being the last resort a little.
        assert abs(mean - a / (a + b)) < 4.5 * max(spread, 0.45) / n**0.5 + (0.002 if i == 0 else 0), i
    assert shares[:, 3].std() == pytest.approx(spread, rel=0.03)
    reference = np.quantile(rng.beta(a, b, n), [0.25, 0.5, 0.75])
    np.testing.assert_allclose(np.quantile(shares[:, 3], [0.25, 0.5, 0.75]), reference, atol=0.015)
    assert (counts[:, 3] == 0).all()


def test_a_total_that_is_used_up_goes_to_modalities_in_random_order():
    rng = np.random.default_rng(0)
    counts = np.array([beta_shares(rng, ONES[:2], 10, np.array([500, 500]), (5, 1)) for _ in range(2000)])
    assert (counts.sum(1) == 10).all()
    assert abs((counts[:, 0] == 10).mean() - 0.5) < 0.06


def test_dirichlet_gives_the_whole_total():
    rng = np.random.default_rng(0)
    assert all(dirichlet(rng, ONES * alpha, 37).sum() == 37 for alpha in (0.01, 0.5, 100) for _ in range(50))


def drawn(config: MaskingConfig, n: int = 400):
    budgets, rng = Budgets(config, [m.spec for m in fake_modalities().values()]), np.random.default_rng(0)
    return [budgets.draw(rng, {"a", "b", "words"}) for _ in range(n)]


def test_the_config_chooses_the_sampler_of_all_and_a_component_its_own():
    given = {"input_tokens": 16, "target_tokens": 16}
    # Dirichlet with alphas this large divides evenly; a uniform count does not.
    even = Component(name="it", input={"*": 1e6}, target={"*": 1e6})
    spread = [
        np.std([d.inputs.get("a", 0) for d in drawn(config)])
        for config in (
            MaskingConfig(**given, mixture=(even,)),
            MaskingConfig(**given, mixture=(even,), sampler="aion"),
            MaskingConfig(**given, mixture=(even.model_copy(update={"sampler": "aion"}),)),
            MaskingConfig(**given, mixture=(even.model_copy(update={"sampler": "dirichlet"}),), sampler="aion"),
        )
    ]
    assert max(spread[0], spread[3]) < 1 < 2 < min(spread[1], spread[2])


def test_aion_respects_what_inputs_leave_of_unordered_tokens_and_the_limits():
    config = MaskingConfig(
        input_tokens=16, target_tokens=30, sampler="aion", beta=(5, 1), min_tokens={"b": 2}, max_tokens={"words": 6}
    )
    for d in drawn(config):
        for name in ("a", "b"):
            assert d.inputs.get(name, 0) + d.targets.get(name, 0) <= 16
        assert max(d.inputs.get("words", 0), d.targets.get("words", 0)) <= 6
        assert d.inputs["b"] >= 2
        assert sum(d.targets.values()) >= 1

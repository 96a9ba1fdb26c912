"""The engine's orders: every token decoded, within the steps, the same for equal seeds and in any batch."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fourm_engine.generate.more_orders import Entropy, Halton, Remask
from fourm_engine.generate.plan import Stage
from fourm_engine.generate.sample import Sample
from fourm_engine.masking.pack import Shown
from fourm_plugins import DecodingOrder, Grid, Predicted, Vector
from fourm_plugins.manager import PluginError
from tests.generate.test_sampler import SAMPLED, partly, sample, sampler  # noqa: F401 (a fixture)

ORDERS = [("halton", {}), ("remask", {"share": 0.3}), ("entropy", {"bound": 2.0}), ("entropy", {"bound": 0.0})]


def stage(scheme="remask", steps=6, order=None, **changes):
    return Stage(target="height", scheme=scheme, steps=steps, order=order or {}, **{**SAMPLED, **changes})


@pytest.fixture
def steps(sampler, monkeypatch):  # noqa: F811
    """Which tokens of the only sample the encoder knows at each step, and how many the decoder predicts."""
    calls, network = [], sampler.network
    encode, decode, mod = network.encode, network.decode, sampler.vocabulary["height"].index

    def known(tokens, continuous):
        calls.append([set(tokens.pos[0][tokens.mod[0] == mod].tolist())])
        return encode(tokens, continuous)

    def predicted(tokens, context, valid):
        calls[-1].append(int((tokens.mod >= 0).sum()))
        return decode(tokens, context, valid)

    monkeypatch.setattr(network, "encode", known)
    monkeypatch.setattr(network, "decode", predicted)
    return calls


@pytest.mark.parametrize(("scheme", "settings"), ORDERS)
@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_a_sample_comes_out_the_same_alone_and_in_any_batch_and_equal_seeds_equal(
    sampler,  # noqa: F811
    scheme,
    settings,
    schedule,
):
    known = partly(sample(2, names=("pose",)), "height", [3, 5, 6], [1, 2, 3])
    batch = [sample(0), sample(1, names=()), known, sample(0)]
    plan = [stage(scheme, order=settings, schedule=schedule, guidance=1.5)]
    together = sampler.run(batch, plan, [5, 6, 7, 5])
    assert np.array_equal(together[0]["height"].ids, together[3]["height"].ids)
    assert together[2]["height"].ids[[3, 5, 6]].tolist() == [1, 2, 3]
    for i, seed in enumerate((5, 6, 7)):
        alone = sampler.run([batch[i]], plan, [seed])[0]["height"].ids
        assert np.array_equal(alone, together[i]["height"].ids)
        assert alone.min() >= 0


@pytest.mark.parametrize("steps_", [1, 3, 6, 16])
@pytest.mark.parametrize("scheme", ["halton", "entropy"])
def test_every_token_is_decoded_once_and_none_is_forgotten(sampler, steps, scheme, steps_):  # noqa: F811
    sampler.run([sample(names=("colour",))], [stage(scheme, steps_)], [3])
    assert 1 <= len(steps) <= steps_
    known = [k for k, _ in steps]
    assert known[0] == set()
    assert all(a < b for a, b in itertools.pairwise(known))


def test_halton_predicts_what_it_keeps_and_nothing_else(sampler, steps):  # noqa: F811
    sampler.run([sample(names=("colour",))], [stage("halton", 4, schedule="linear")], [3])
    assert [count for _, count in steps] == [4, 4, 4, 4]


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_remasking_forgets_its_share_and_still_ends_with_the_last_step(sampler, steps, share):  # noqa: F811
    s = partly(sample(names=("colour",)), "height", [0, 9], [4, 4])
    filled = sampler.run([s], [stage("remask", 7, {"share": share}, schedule="linear")], [3])[0]["height"].ids
    assert len(steps) == 7
    assert filled[[0, 9]].tolist() == [4, 4]
    revealed, forgotten = [2, 4, 6, 8, 10, 12, 14], 0
    for i, (known, count) in enumerate(steps):
        assert {0, 9} <= known
        assert count == 16 - len(known)
        before = steps[i - 1][0] if i else {0, 9}
        budget = int(share * (len(before) - 2)) if i else 0
        assert len(known) == 2 + (revealed[i - 1] - budget if i else 0)
        assert len(before - known) <= budget
        forgotten += len(before - known)
    assert forgotten > 0


def test_entropy_takes_one_step_where_anything_is_sure_enough_and_all_where_nothing_is(sampler, steps):  # noqa: F811
    for bound, expected in ((1e6, 1), (0.0, 16)):
        steps.clear()
        sampler.run([sample(names=("colour",))], [stage("entropy", 16, {"bound": bound}, schedule="linear")], [3])
        assert len(steps) == expected


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.floats(0, 8))
def test_entropy_keeps_what_is_within_its_bound(seed, bound):
    logits = torch.randn(12, 5, generator=torch.Generator().manual_seed(seed)) * 3
    unknown = torch.ones(12, dtype=torch.bool)
    told = Predicted(0, 4, 1, unknown, ~unknown, torch.zeros(12), logits, torch.zeros(12))
    order = Entropy(Vector(length=12), bound=bound)
    entropy = torch.distributions.Categorical(logits=logits.double()).entropy()
    chosen = entropy.sort().values[: order.count(told)]
    assert chosen[:-1].sum() <= bound + 1e-4
    if len(chosen) < 12:
        assert chosen.sum() > bound - 1e-4
    assert (order.score(told).double() + entropy).abs().max() < 1e-5


@pytest.mark.parametrize("layout", [Grid(height=4, width=4), Grid(height=3, width=7), Vector(length=5)])
def test_halton_visits_every_token_once_and_spreads_the_first_ones(layout):
    scores = Halton(layout).fixed_scores()
    assert sorted((-scores).tolist()) == list(range(layout.num_tokens))
    if layout == Grid(height=4, width=4):
        first = (-scores).argsort()[:4]
        assert len({(int(i) // 4 // 2, int(i) % 4 // 2) for i in first}) >= 3  # quarters of the picture


def test_remasking_prefers_what_the_model_was_unsure_of():
    confidence = torch.tensor([0.999, 0.001]).log().repeat(500)
    known, n = torch.zeros(1000, dtype=torch.bool), 1000
    uniform = torch.rand(n, generator=torch.Generator().manual_seed(0))
    told = Predicted(2, 4, 1, known, known, confidence, torch.zeros(0, 3), uniform)
    forgotten = Remask(Vector(length=n), share=0.2).remask(told)
    assert forgotten.sum() == 200
    assert forgotten[1::2].sum() > 1.5 * forgotten[::2].sum()


def test_remasking_makes_nothing_that_the_model_finds_less_likely_than_what_stays_as_it_is(sampler):  # noqa: F811
    given, seeds, places = sample(names=("colour",)), range(24), np.arange(16)

    def nats(made: list[np.ndarray]) -> np.ndarray:
        """Of each token given all the others, the mean of each sample."""
        rows = [
            Sample(given.shown, {"height": Shown.tokens(np.delete(ids, i), np.delete(places, i))})
            for ids in made
            for i in places
        ]
        one = Stage("height", scheme="parallel", readout="expected")
        filled = sampler.run(rows, [one], [0] * len(rows))
        true = [f["height"].probabilities[i] for f, i in zip(filled, np.tile(places, len(made)), strict=True)]
        chosen = np.concatenate(made)
        return -np.log([p[c] for p, c in zip(true, chosen, strict=True)]).reshape(len(made), -1).mean(1)

    def drawn(scheme: str) -> np.ndarray:
        made = sampler.run([given] * len(seeds), [stage(scheme, 8)], seeds)
        return nats([one["height"].ids for one in made])

    plain, remasked = drawn("parallel"), drawn("remask")
    anything = nats([np.random.default_rng(seed).integers(0, 8, 16) for seed in seeds])
    noise = 3 * np.hypot(plain.std(), remasked.std()) / len(seeds) ** 0.5
    assert remasked.mean() < plain.mean() + noise < anything.mean()


@pytest.mark.parametrize(
    ("scheme", "settings", "message"),
    [
        ("remask", {"shares": 0.1}, "order 'remask' has no setting 'shares'; its settings: share"),
        ("remask", {"share": 0.0}, "share is above 0 and at most 1; given: 0.0"),
        ("entropy", {"bound": -1.0}, "bound is a number of nats"),
        ("halton", {"base": 2.0}, "order 'halton' has no setting 'base'; its settings: none"),
    ],
)
def test_settings_that_an_order_does_not_take_are_named(sampler, scheme, settings, message):  # noqa: F811
    with pytest.raises(ValueError, match=message):
        sampler.run([sample()], [stage(scheme, order=settings)], [0])
    with pytest.raises(ValueError, match="has no settings"):
        stage("parallel", order={"share": 0.1})


WRONG = """
import torch
from fourm_plugins import DecodingOrder

class Eager(DecodingOrder):
    def remask(self, predicted):
        return predicted.given

class Misspelt(DecodingOrder):
    def score(self): return 0
"""


def test_a_package_adds_an_order_that_forgets_and_is_told_what_it_may_not(sampler, install):  # noqa: F811
    sampler.__dict__.pop("_manager", None)
    entries = "[fourm.orders.v1]\neager = acme_eager:Eager\nmisspelt = acme_eager:Misspelt\n"
    install("acme-eager", entries, source=WRONG)
    given = partly(sample(), "height", [0], [1])
    with pytest.raises(PluginError, match=r"'eager' of acme-eager .* remasks tokens that are given"):
        sampler.run([given], [stage("eager")], [0])
    with pytest.raises(PluginError, match="score is written"):
        sampler.run([given], [stage("misspelt")], [0])
    sampler.__dict__.pop("_manager", None)
    assert issubclass(Halton, DecodingOrder)

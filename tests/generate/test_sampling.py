from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fourm_engine.generate.sampling import (
    draw,
    filter_top_k_top_p,
    generators,
    likeliest,
    log_probability,
    most_confident,
    uniforms,
)


def slow_filter(logits: np.ndarray, top_k: int | None, top_p: float | None) -> set[int]:
    """Ids of one row that may be drawn, token by token."""
    left = list(np.argsort(-logits, kind="stable"))
    if top_k is not None:
        left = left[:top_k]
    if top_p is not None:
        p = np.exp(logits[left] - logits[left].max())
        p /= p.sum()
        kept, mass = [], 0.0
        for index, q in zip(left, p, strict=True):
            if kept and mass >= top_p:
                break
            kept.append(index)
            mass += q
        left = kept
    return {int(i) for i in left}


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.none() | st.integers(1, 12), st.none() | st.floats(0.05, 1.0))
def test_filters_keep_what_a_token_by_token_version_keeps(seed, top_k, top_p):
    logits = np.random.default_rng(seed).normal(size=9).astype(np.float32)
    p = torch.from_numpy(logits).softmax(-1)[None]
    left = filter_top_k_top_p(p, top_k=top_k, top_p=top_p)[0]
    assert set(left.nonzero()[:, 0].tolist()) == slow_filter(logits, top_k, top_p)


def drawn_by_sorting(logits, uniform, heat, top_k, top_p):
    """Everything in full: the whole vocabulary sorted, the whole of it summed."""
    x = logits.double().float()
    p = ((x - x.amax(-1, keepdim=True)) / heat[..., None]).exp()
    if top_k is not None:
        p = torch.where(p >= p.sort(dim=-1, descending=True).values[..., top_k - 1 : top_k], p, 0.0)
    if top_p is not None:
        falling, index = p.sort(dim=-1, descending=True, stable=True)
        before = falling.cumsum(-1, dtype=torch.float64) - falling
        dropped = before >= top_p * falling.sum(-1, keepdim=True, dtype=torch.float64)
        dropped[..., 0] = False
        p = p.masked_fill(torch.zeros_like(dropped).scatter(-1, index, dropped), 0.0)
    cumulative = p.cumsum(-1, dtype=torch.float64)
    return torch.searchsorted(cumulative, uniform.double()[..., None] * cumulative[..., -1:], right=True)[..., 0]


@pytest.mark.parametrize("spread", [0.0, 0.1, 1.0, 4.0])
@pytest.mark.parametrize("size", [1, 9, 130, 5000])
@pytest.mark.parametrize("filters", [(None, None), (None, 0.9), (40, None), (40, 0.5), (None, 0.01), (None, 0.9999)])
def test_draws_are_those_of_a_full_sort_for_the_same_uniform_numbers(spread, size, filters):
    generator = torch.Generator().manual_seed(size)
    logits = spread * torch.randn(7, 11, size, generator=generator)
    logits[3:] = (logits[3:] * 3).round() / 3  # many equals
    uniform, heat = torch.rand(7, 11, generator=generator), torch.rand(7, 1, generator=generator) + 0.5
    top_k, top_p = filters
    top_k = None if top_k is None else min(top_k, size)
    expected = drawn_by_sorting(logits, uniform, heat.expand(7, 11), top_k, top_p)
    assert draw(logits, uniform, temperature=heat, top_k=top_k, top_p=top_p).equal(expected)


def test_draws_follow_the_distribution():
    logits = torch.tensor([0.5, 0.3, 0.2, 0.0]).log()
    ids = draw(logits.expand(4000, 4), (torch.arange(4000) + 0.5) / 4000, temperature=torch.ones(1))
    assert torch.bincount(ids, minlength=4).tolist() == [2000, 1200, 800, 0]


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.integers(1, 9), st.floats(0.05, 1), st.sampled_from([1e-9, 0.3, 1.0, 50.0]))
def test_what_the_filters_drop_is_never_drawn_not_even_at_the_ends_of_the_interval(seed, top_k, top_p, heat):
    logits = torch.from_numpy(np.random.default_rng(seed).normal(size=(1, 9)).astype(np.float32))
    allowed = slow_filter((logits[0] / heat).numpy(), top_k, top_p)
    for u in (0.0, 0.5, 1 - 2**-24):
        ids = draw(logits, torch.tensor([u]), temperature=torch.full((1,), heat), top_k=top_k, top_p=top_p)
        assert int(ids) in allowed


def test_no_temperature_and_a_tiny_temperature_take_the_likeliest():
    logits = torch.randn(5, 11, generator=torch.Generator().manual_seed(0))
    u = torch.rand(5, generator=torch.Generator().manual_seed(1))
    assert torch.equal(draw(logits, u, temperature=None), logits.argmax(-1))
    assert torch.equal(draw(logits, u, temperature=torch.full((5,), 1e-9)), logits.argmax(-1))


def test_random_numbers_of_a_sample_do_not_depend_on_its_batch():
    alone = uniforms(generators([7]), 3, 4)[0]
    assert torch.equal(uniforms(generators([1, 7, 2]), 3, 4)[1], alone)
    assert not torch.equal(uniforms(generators([8]), 3, 4)[0], alone)


def test_confidence_is_the_log_probability_of_the_chosen_id():
    logits = torch.tensor([[0.25, 0.75]]).log() + 3
    assert torch.allclose(log_probability(logits, torch.tensor([1])), torch.tensor([0.75]).log())


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.integers(0, 6))
def test_the_most_confident_are_those_a_sort_finds(seed, count):
    rng = np.random.default_rng(seed)
    confidence, valid = rng.integers(0, 4, 6).astype(np.float32), rng.random(6) < 0.7
    chosen = most_confident(torch.from_numpy(confidence)[None], torch.from_numpy(valid)[None], torch.tensor([count]))[0]
    ranked = sorted(np.flatnonzero(valid), key=lambda i: (-confidence[i], i))
    assert set(chosen.nonzero()[:, 0].tolist()) == set(ranked[:count])


def test_the_steps_of_a_scale_count_together_where_the_likeliest_token_is_taken():
    p = torch.tensor([[0.3, 0.1, 0.15, 0.15, 0.1, 0.05, 0.15], [0.6, 0.1, 0.05, 0.05, 0.1, 0.05, 0.05]])
    scales = [range(1, 5), range(5, 6)]  # together 0.5 and 0.05; 0.3 and 0.05
    assert likeliest(p.log()).tolist() == [0, 0]
    assert likeliest(p.log(), scales).tolist() == [2, 0]
    assert likeliest(p[:, [5, 6, 1, 2, 3, 4, 0]].log(), [range(2, 6)]).tolist() == [3, 6]

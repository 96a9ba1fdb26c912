"""Decoding orders that packages add."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fourm_engine.generate.plan import Stage
from fourm_plugins.manager import PluginError
from tests.generate.test_sampler import GRID, sample, sampler  # noqa: F401 (a fixture)

ORDERS = """
import torch

CALLS = []

def rows(confidence_N, unknown_N, step, steps, uniform_N):
    CALLS.append((confidence_N.clone(), unknown_N.clone(), step, steps, uniform_N.clone()))
    return -torch.arange(len(unknown_N), dtype=torch.float32)

def confident(confidence_N, unknown_N, step, steps, uniform_N): return confidence_N
def shuffled(confidence_N, unknown_N, step, steps, uniform_N): return uniform_N
def short(confidence_N, unknown_N, step, steps, uniform_N): return confidence_N[:2]
def empty(confidence_N, unknown_N, step, steps, uniform_N): return confidence_N * float("nan")
def broken(confidence_N, unknown_N, step, steps, uniform_N): return {}["x"]
"""
NAMES = ("rows", "confident", "shuffled", "short", "empty", "broken")


@pytest.fixture
def orders(install, sampler):  # noqa: F811
    entries = "".join(f"{name} = acme_orders:{name}\n" for name in NAMES)
    install("acme-orders", f"[fourm.orders.v1]\n{entries}", source=ORDERS)
    sampler.__dict__.pop("_manager", None)
    return sampler


def generate(sampler, scheme, **changes):  # noqa: F811
    stage = Stage(**{**GRID.model_dump(), "scheme": scheme, **changes})
    return [filled["height"].ids for filled in sampler.run([sample(0), sample(1)], [stage], [7, 8])]


def test_an_order_that_scores_by_confidence_is_the_built_in_parallel_scheme(orders):
    assert all(map(np.array_equal, generate(orders, "confident"), generate(orders, "parallel")))
    assert not all(map(np.array_equal, generate(orders, "shuffled"), generate(orders, "parallel")))
    assert all(map(np.array_equal, generate(orders, "shuffled"), generate(orders, "shuffled")))


def test_an_order_decides_which_tokens_stay_and_knows_what_is_unknown(orders):
    generate(orders, "rows", steps=4, schedule="linear")
    import acme_orders

    first_sample = acme_orders.CALLS[::2]
    assert [unknown.nonzero()[:, 0].tolist() for _, unknown, *_ in first_sample] == [
        list(range(start, 16)) for start in (0, 4, 8, 12)
    ]
    for number, (confidence, unknown, step, steps, uniform) in enumerate(first_sample):
        assert (step, steps) == (number, 4)
        assert torch.isinf(confidence).equal(~unknown)
        assert (confidence[unknown] <= 0).all()
        assert ((uniform >= 0) & (uniform < 1)).all()
    assert not first_sample[0][-1].equal(first_sample[1][-1])


@pytest.mark.parametrize(
    ("scheme", "message"),
    [
        ("short", r"order 'short' of acme-orders 1\.2 scores with \(2,\) instead of a tensor of 16 numbers"),
        ("empty", r"order 'empty' of acme-orders 1\.2 scores with NaN"),
        ("broken", r"order 'broken' of acme-orders 1\.2 failed with KeyError: 'x' \(.*acme_orders\.py:\d+\)"),
        (
            "confidant",
            r"scheme 'confidant': no installed plugin provides the order 'confidant'; did you mean 'confident'",
        ),
        ("serial", r"built in: parallel, random_order, autoregressive"),
    ],
)
def test_an_order_that_is_unknown_or_breaks_is_named(orders, scheme, message):
    with pytest.raises(PluginError, match=message):
        generate(orders, scheme)


def test_an_order_is_no_left_to_right_scheme(orders):
    with pytest.raises(ValueError, match="words is a sequence: its scheme is autoregressive, not rows"):
        orders.run([sample()], [Stage(target="words", scheme="rows")], [0])
    assert not Stage(target="height", scheme="rows", steps=2).deterministic

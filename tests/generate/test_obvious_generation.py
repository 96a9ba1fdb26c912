"""The sampler gives, token for token, what a version gives that encodes and decodes everything in every step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.obvious_generation import Obvious
from fourm_engine.generate.plan import Stage
from fourm_engine.generate.sampling import generators, uniforms
from fourm_engine.generate.schedules import tokens_per_step
from tests.generate.test_sampler import IDS, sample, sampler  # noqa: F401 (a fixture)

SEEDS = [3, 4, 5]


@pytest.fixture
def obvious(sampler):  # noqa: F811
    return Obvious(sampler.network, sampler.vocabulary)


def inputs():
    """Of several lengths, two of them equal."""
    return [sample(0, names=("colour",)), sample(1, names=("colour@pixels", "pose")), sample(0, names=("colour",))]


@pytest.mark.parametrize("guidance", [1.0, 2.0, 0.0, -1.0])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("scheme", ["parallel", "random_order"])
def test_grids_are_those_of_the_obvious_version(sampler, obvious, scheme, temperature, guidance):  # noqa: F811
    top_p = 0.8 if temperature else None
    stage = Stage(target="height", scheme=scheme, steps=5, temperature=temperature, top_p=top_p, guidance=guidance)
    rngs = generators(SEEDS)
    uniform = uniforms(rngs, 5, 16)
    priority = uniforms(rngs, 16) if scheme == "random_order" else None
    expected = obvious.parallel(
        [s.shown for s in inputs()],
        "height",
        tokens_per_step("cosine", 5, 16),
        uniform,
        priority=priority,
        weight=guidance,
        temperature=temperature,
        top_p=top_p or 1.0,
    )
    found = [filled["height"].ids for filled in sampler.run(inputs(), [stage], SEEDS)]
    assert np.array_equal(found, expected.numpy())


@pytest.mark.parametrize("guidance", [1.0, 2.0, 0.0])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_sequences_are_those_of_the_obvious_version(sampler, obvious, temperature, guidance):  # noqa: F811
    stage = Stage(target="words", scheme="autoregressive", temperature=temperature, guidance=guidance)
    expected = obvious.sequence(
        [s.shown for s in inputs()],
        "words",
        IDS["words"].start,
        uniforms(generators(SEEDS), 10),
        weight=guidance,
        temperature=temperature,
    ).numpy()
    for filled, row in zip(sampler.run(inputs(), [stage], SEEDS), expected, strict=True):
        stops = np.flatnonzero(np.isin(row, list(IDS["words"].stop)))
        assert filled["words"].ids.tolist() == row[: stops[0] if len(stops) else None].tolist()
    assert torch.is_grad_enabled()

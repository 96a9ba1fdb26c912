from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourm_engine.generate.schedules import temperatures, tokens_per_step

CASES = json.loads((Path(__file__).parents[1] / "golden" / "cases" / "decoding_schedules.json").read_text())


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_tokens_per_step_are_those_of_the_published_models(schedule):
    assert CASES[schedule]
    for key, expected in CASES[schedule].items():
        steps, tokens = map(int, key.split(","))
        assert tokens_per_step(schedule, steps, tokens) == expected


def test_linear_temperature_is_that_of_the_published_models():
    expected = CASES["temperature_linear(t=3,linear 49,196)"]
    counts = tokens_per_step("linear", 49, 196)
    assert temperatures("linear", counts, temperature=3) == pytest.approx(expected, abs=1e-9)


def test_onex_temperature_is_that_of_the_published_models():
    expected = CASES["temperature_onex(max=6,min=0.5,power=0.5,linear 49,196)"]
    counts = tokens_per_step("linear", 49, 196)
    assert temperatures("onex", counts, temperature=6, minimum=0.5, power=0.5) == pytest.approx(expected, abs=1e-9)


@given(st.sampled_from(["cosine", "linear"]), st.integers(1, 200), st.integers(0, 200))
def test_every_token_is_revealed_once_whatever_the_number_of_steps(schedule, steps, tokens):
    counts = tokens_per_step(schedule, steps, tokens)
    assert sum(counts) == tokens
    assert min(counts) >= 0
    assert len(counts) <= steps


@given(st.sampled_from(["constant", "linear", "onex"]), st.integers(1, 60), st.integers(1, 60), st.floats(1e-3, 10))
def test_every_temperature_is_positive(schedule, steps, tokens, temperature):
    counts = [*tokens_per_step("linear", steps, tokens), 0]  # as beside a sample of which more is left
    heats = temperatures(schedule, counts, temperature=temperature, minimum=0.1)
    assert len(heats) == len(counts)
    assert min(heats) > 0

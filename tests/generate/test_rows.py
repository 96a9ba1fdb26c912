"""Rows that run together: little padding, nothing computed twice."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fourm_engine.generate.plan import Stage
from fourm_engine.generate.rows import PADDING, distinct, group_by_length
from fourm_engine.masking.pack import Shown
from tests.generate.test_sampler import GRID, TEXT, partly, sample, sampler  # noqa: F401 (a fixture)


def slots(lengths, groups):
    return sum(max(lengths[i] for i in group) * len(group) for group in groups)


def splits(lengths, count):
    """All divisions of the rows, ordered by length, into `count` runs."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    for cuts in itertools.combinations(range(1, len(order)), count - 1):
        yield [order[a:b] for a, b in itertools.pairwise([0, *cuts, len(order)])]


@settings(max_examples=60)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=7))
def test_at_most_a_tenth_of_what_runs_is_padding_in_as_few_groups_as_that_takes(lengths):
    groups = group_by_length(lengths)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    most = sum(lengths) / (1 - PADDING)
    assert slots(lengths, groups) <= most
    if len(groups) > 1:
        assert all(slots(lengths, fewer) > most for fewer in splits(lengths, len(groups) - 1))


def test_equal_rows_are_one_whoever_made_them():
    a, b = ({"x": Shown.tokens([1, 2])} for _ in range(2))
    assert distinct([a, {"x": Shown.tokens([1, 2], np.array([0, 3]))}, b, {}]) == ([0, 1, 0, 2], [0, 1, 3])


@pytest.fixture
def seen(sampler, monkeypatch):  # noqa: F811
    """Shapes of what the encoder is given, and how much of it is a token."""
    calls, encode = [], sampler.network.encode

    def spy(tokens, continuous):
        calls.append((*tokens.shape, int((tokens.mod >= 0).sum())))
        return encode(tokens, continuous)

    monkeypatch.setattr(sampler.network, "encode", spy)
    return calls


@pytest.mark.parametrize("stage", [GRID, GRID.model_copy(update={"scheme": "random_order"}), TEXT])
def test_every_branch_runs_at_its_length(sampler, seen, stage):  # noqa: F811
    batch = [sample(0), sample(1, names=("words",)), partly(sample(2, names=("pose",)), "height", [3, 5], [1, 2])]
    sampler.run(batch, [stage.model_copy(update={"guidance": 2.0})], [0, 1, 2])
    empty = sum(rows == 1 and width == 1 and tokens == 0 for rows, width, tokens in seen)
    total, tokens = sum(rows * width for rows, width, _ in seen), sum(tokens for *_, tokens in seen)
    assert total - empty <= tokens / (1 - PADDING) + 3  # a row without a token takes a slot


def test_samples_of_one_input_share_its_encoding(sampler, seen):  # noqa: F811
    s = sample(names=("colour",))
    together = sampler.run([s] * 4, [TEXT.model_copy(update={"guidance": 1.5})], range(4))
    assert sorted((rows, width) for rows, width, _ in seen) == [(1, 1), (1, 16)]
    seen.clear()
    sampler.run([s] * 4, [Stage(target="height", scheme="parallel", temperature=1.0)], range(4))
    assert [(rows, width) for rows, width, _ in seen] == [(1, 16)]
    alone = [sampler.run([s], [TEXT.model_copy(update={"guidance": 1.5})], [seed])[0] for seed in range(4)]
    assert [r["words"].ids.tolist() for r in together] == [r["words"].ids.tolist() for r in alone]


@pytest.mark.parametrize(
    ("guidance", "branches"),
    [
        (1.0, 1),
        (0.0, 1),
        ({"colour": 0.0}, 1),
        ({"colour": 1.0, "words": 0.0}, 1),
        ({"colour": 1.0, "words": 2.0}, 3),
        ([0.0, 0.0], 1),
        (2.0, 2),
    ],
)
def test_a_branch_of_which_nothing_is_taken_is_not_computed(sampler, seen, guidance, branches):  # noqa: F811
    stage = GRID.model_copy(update={"guidance": guidance, "steps": 2})
    sampler.run([sample(names=("colour", "words"))], [stage], [0])
    assert sum(rows for rows, *_ in seen) == 2 * branches


def test_compiled_shapes_are_the_same_in_every_step(sampler, seen, monkeypatch):  # noqa: F811
    batch = [sample(0), partly(sample(1, names=("words",)), "height", [3, 5], [1, 2])]
    stage = GRID.model_copy(update={"guidance": 2.0})
    plain = sampler.run(batch, [stage], [0, 1])
    seen.clear()
    monkeypatch.setattr(type(sampler.network), "compiled", True)
    fixed = sampler.run(batch, [stage], [0, 1])
    shapes = [shape[:2] for shape in seen]
    assert shapes == shapes[: len(shapes) // stage.steps] * stage.steps
    assert all(np.array_equal(a["height"].ids, b["height"].ids) for a, b in zip(plain, fixed, strict=True))
    assert torch.is_inference_mode_enabled() is False

"""Grid and span masking: the published pairs and lengths, and what holds for every draw."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourm_engine.masking.grid import GridMasker
from fourm_engine.masking.span import SpanMasker, mask_sequences, mask_spans
from fourm_plugins import MASK, SpecialTokens
from tests.fakes import END, FIRST_SENTINEL, FIRST_WORD, SENTINELS, fake_modalities

CASES = Path(__file__).parent.parent / "golden/cases"
PAIRS = json.loads((CASES / "span_masking.json").read_text())
STATS = json.loads((CASES / "sequence_mask_stats.json").read_text())
SENTINEL_IDS = range(FIRST_SENTINEL, FIRST_WORD)


def span_masker(max_tokens: int = 34, sentinels: int = SENTINELS) -> SpanMasker:
    words = fake_modalities(["words"])["words"]
    spec = words.spec.model_copy(update={"layout": words.spec.layout.model_copy(update={"max_tokens": max_tokens})})
    return SpanMasker(spec, SpecialTokens(END, tuple(range(FIRST_SENTINEL, FIRST_SENTINEL + sentinels))))


def test_spans_are_masked_as_in_the_published_models():
    sentinels = np.array([PAIRS["sentinel_to_id"][str(i)] for i in range(1, 40)])
    for pair in PAIRS["pairs"]:
        one = np.array([pair["ids"]]), np.array([pair["keep"]], bool), np.array([len(pair["ids"])])
        spans = mask_spans(*one, sentinels)
        assert spans.inputs.tolist() == pair["input"]
        assert spans.targets.tolist() == pair["target"]


@pytest.mark.parametrize("facts", STATS["stats"], ids=lambda f: f"{f['input_budget']}-{f['target_budget']}")
def test_lengths_are_distributed_as_in_the_published_models(facts):
    masker, n = span_masker(max_tokens=256, sentinels=200), STATS["samples"]
    keys = np.random.default_rng(0).integers(0, 2**63, n).astype(np.uint64)
    ids = np.arange(1000, 1000 + facts["num_ids_with_eos"] - 1)
    budgets = np.full(n, facts["input_budget"]), np.full(n, facts["target_budget"])
    masked = mask_sequences([ids] * n, [masker] * n, *budgets, [STATS["keep_scheme"]] * n, keys)
    # A target of k ids gives k - 1 rows.
    for lengths, key in ((masked.n_inputs, "input_len"), (masked.n_targets + 1, "target_len")):
        error = 4.5 * facts[key]["std"] * (2 / n) ** 0.5
        assert abs(lengths.mean() - facts[key]["mean"]) <= error, key
        assert lengths.max() <= facts[key]["max"]


@given(
    n=st.integers(0, 33),
    input_budget=st.integers(0, 40),
    target_budget=st.integers(0, 40),
    keep=st.sampled_from(["random", "all", "binary"]),
    seed=st.integers(0, 10**6),
)
def test_span_masking_respects_its_budgets_and_loses_only_what_is_trimmed(n, input_budget, target_budget, keep, seed):
    masker, ids = span_masker(), np.arange(100, 100 + n)
    budgets = {"input_budget": input_budget, "target_budget": target_budget}
    m = masker.mask(ids, **budgets, keep=keep, rng=np.random.default_rng(seed))
    assert len(m.input_ids) <= input_budget
    assert len(m.labels) + 1 <= max(target_budget, 1)
    assert m.input_pos.tolist() == list(range(len(m.input_ids)))
    assert m.target_pos.tolist() == m.target_order.tolist() == list(range(len(m.labels)))
    assert m.target_ids[1:].tolist() == m.labels[:-1].tolist()
    if len(m.labels):
        assert m.target_ids[0] in SENTINEL_IDS
    shown = {i for i in m.input_ids.tolist() if i not in SENTINEL_IDS}
    asked = {i for i in m.labels.tolist() if i not in SENTINEL_IDS}
    assert not shown & asked
    assert shown | asked <= {*ids.tolist(), END}
    if input_budget and target_budget >= n + 4:  # nothing trimmed: the target fills the input's gaps
        target = [*m.target_ids[:1].tolist(), *m.labels.tolist()]
        assert rebuild(m.input_ids.tolist(), target) == [*ids.tolist(), END]


def rebuild(shown: list[int], target: list[int]) -> list[int]:
    """The source from its inputs and targets: each sentinel of the input means what follows it in the target."""
    runs: dict[int, list[int]] = {}
    for i in target:
        if i in SENTINEL_IDS:
            runs[i] = []
        else:
            runs[next(reversed(runs))].append(i)
    return [j for i in shown for j in (runs[i] if i in SENTINEL_IDS else [i])]


def test_without_an_input_budget_everything_is_asked_for_from_the_first_span_sentinel_on():
    m = span_masker().mask(
        np.array([50, 51]), input_budget=0, target_budget=10, keep="all", rng=np.random.default_rng(0)
    )
    assert len(m.input_ids) == 0
    assert m.target_ids.tolist() == [FIRST_SENTINEL + 1, 50, 51, END]
    assert m.labels.tolist() == [50, 51, END, FIRST_SENTINEL + 2]


def test_a_sequence_beyond_max_tokens_is_cut_and_its_end_is_not_pretended():
    masker = span_masker(max_tokens=4)
    m = masker.mask(np.arange(50, 60), input_budget=0, target_budget=20, keep="all", rng=np.random.default_rng(0))
    assert m.labels.tolist() == [50, 51, 52, 53, FIRST_SENTINEL + 2]


def test_a_trimmed_target_starts_at_a_sentinel_and_may_start_at_any_with_enough_behind_it():
    masker, first = span_masker(), set()
    for seed in range(300):
        m = masker.mask(
            np.arange(100, 130), input_budget=20, target_budget=6, keep="random", rng=np.random.default_rng(seed)
        )
        if len(m.labels) == 5:
            first.add(int(m.target_ids[0]))
    assert len(first) >= 5


def test_too_few_sentinels_are_an_error_before_any_sample_needs_them():
    with pytest.raises(ValueError, match=r"may\s*need"):
        span_masker(max_tokens=100)


@given(n=st.integers(1, 40), shown=st.integers(0, 50), asked=st.integers(0, 50), seed=st.integers(0, 1000))
def test_grid_masking_splits_the_tokens(n, shown, asked, seed):
    spec, ids = fake_modalities(["a"])["a"].spec, np.arange(n) * 10
    m = GridMasker(spec).mask(
        ids, input_budget=shown, target_budget=asked, keep="random", rng=np.random.default_rng(seed)
    )
    assert len(m.input_ids) == min(shown, n)
    assert len(m.labels) == min(asked, n - len(m.input_ids))
    assert not set(m.input_pos.tolist()) & set(m.target_pos.tolist())
    assert (ids[m.input_pos] == m.input_ids).all()
    assert (ids[m.target_pos] == m.labels).all()
    assert (m.target_ids == MASK).all()
    assert not m.target_order.any()


def test_every_token_of_a_grid_is_equally_likely_to_be_shown():
    masker, rng = GridMasker(fake_modalities(["a"])["a"].spec), np.random.default_rng(0)
    counts = np.zeros(16)
    for _ in range(4000):
        counts[masker.mask(np.arange(16), input_budget=4, target_budget=4, keep="all", rng=rng).input_pos] += 1
    assert np.abs(counts - 1000).max() < 4.5 * (4000 * 0.25 * 0.75) ** 0.5

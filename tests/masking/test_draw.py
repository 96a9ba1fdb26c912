"""Masking many samples at once gives each what it would get alone, and what the slow, obvious way gives."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourm_engine.masking.budgets import Drawn
from fourm_engine.masking.draw import BatchMasker, Unmasked
from fourm_engine.masking.grid import GridMasker
from fourm_engine.masking.noise import keys_of
from fourm_engine.masking.pack import build_maskers
from fourm_engine.masking.span import KEEP_DECAY, Spans, mask_sequences, mask_spans, trim
from fourm_engine.vocabulary import Vocabulary
from fourm_plugins import Masked
from tests.fakes import END, FIRST_WORD, fake_modalities, fake_tokenizers
from tests.masking.test_maskers import span_masker

MODALITIES = fake_modalities()
VOCABULARY = Vocabulary.build(m.spec for m in MODALITIES.values())
MASKERS = build_maskers(MODALITIES, fake_tokenizers(MODALITIES))
SENTINELS = np.arange(1000, 1100)


def samples(seed: int, number: int) -> list[Unmasked]:
    rng, made = np.random.default_rng(seed), []
    for b in range(number):
        contents = {
            "a": rng.integers(0, 16, 16),
            "a@pixels": rng.random((16, 8), np.float32),
            "b": rng.integers(0, 5, 16),
            "words": rng.integers(22, 33, rng.integers(0, 11)),
        }
        inputs = {name: int(n) for name, n in zip(contents, rng.integers(0, 10, 4)) if n}
        targets = {name: int(n) for name, n in zip(("a", "b", "words"), rng.integers(0, 10, 3)) if n}
        keep = {name: str(rng.choice(["random", "all", "binary"])) for name in contents}
        made.append(Unmasked(contents, Drawn("it", inputs, targets, keep), np.random.default_rng([seed, b])))
    return made


def assert_same(x, y):
    for part in ("encoder", "decoder", "labels"):
        np.testing.assert_array_equal(getattr(x, part), getattr(y, part))
    assert x.continuous.keys() == y.continuous.keys()
    for name, kept in x.continuous.items():
        np.testing.assert_array_equal(kept.rows(), y.continuous[name].rows())
    assert x.component == y.component


class Backwards(GridMasker):
    """A plugin's masker: the last tokens are inputs, those before them targets; it says who called."""

    def mask(self, ids, *, input_budget, target_budget, keep, rng) -> Masked:
        rng.random(3)
        return super().mask(ids[::-1], input_budget=input_budget, target_budget=target_budget, keep=keep, rng=rng)


@given(seed=st.integers(0, 10**6), number=st.integers(1, 6), custom=st.booleans())
def test_a_sample_is_masked_alike_whatever_is_beside_it(seed, number, custom):
    maskers = MASKERS | ({"b": Backwards(MODALITIES["b"].spec)} if custom else {})
    mask = BatchMasker(maskers, VOCABULARY)
    together, backwards = mask(samples(seed, number)), mask(samples(seed, number)[::-1])[::-1]
    for b, sample in enumerate(together):
        assert_same(sample, mask([samples(seed, number)[b]])[0])
        assert_same(sample, backwards[b])


def test_a_masker_of_a_plugin_is_called_for_each_sample_with_its_generator():
    seen = []

    class Recording(GridMasker):
        def mask(self, ids, *, input_budget, target_budget, keep, rng):
            seen.append((len(ids), input_budget, target_budget, keep, rng))
            return super().mask(ids, input_budget=input_budget, target_budget=target_budget, keep=keep, rng=rng)

    given = samples(3, 8)
    BatchMasker(MASKERS | {"b": Recording(MODALITIES["b"].spec)}, VOCABULARY)(given)
    drawn = [(s, s.drawn) for s in given if "b" in s.drawn.modalities]
    assert seen == [(16, d.inputs.get("b", 0), d.targets.get("b", 0), d.keep["b"], s.rng) for s, d in drawn]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"input_pos": [0]}, "1 input_pos for 2 inputs"),
        ({"target_order": []}, "0 target_order for 1 target"),
        ({"target_ids": [-2]}, r"target_ids from -2 to -2, outside \[-1, 5\)"),
        ({"target_ids": None}, "target_ids that are not int64"),
        ({"labels": [5]}, r"labels from 5 to 5, outside \[0, 5\)"),
        ({"target_pos": [1]}, "tokens that are both input and target"),
    ],
)
def test_tokens_of_a_masker_that_do_not_fit_one_another_are_named(fields, said):
    right = {"input_ids": [3, 3], "input_pos": [0, 1], "target_ids": [-1], "target_pos": [2], "target_order": [0]}
    columns = {name: np.array(column, np.int64) for name, column in (right | {"labels": [3]}).items()}
    changed = {name: column if column is None else np.array(column, np.int64) for name, column in fields.items()}

    class Misfit(GridMasker):
        def mask(self, ids, **_):
            return Masked(**columns | changed)

    drawn = Drawn("it", {"b": 2}, {"b": 1}, {"b": "all"})
    sample = Unmasked(samples(0, 1)[0].contents, drawn, np.random.default_rng(0))
    with pytest.raises(ValueError, match=f"masker Misfit of b gave {said}.*; repair or upgrade its package"):
        BatchMasker({"b": Misfit(MODALITIES["b"].spec)}, VOCABULARY)([sample])


def test_a_masker_that_exceeds_its_budgets_is_named():
    class Greedy(GridMasker):
        def mask(self, ids, *, input_budget, target_budget, keep, rng):
            return super().mask(ids, input_budget=9, target_budget=0, keep=keep, rng=rng)

    sample = Unmasked(samples(0, 1)[0].contents, Drawn("it", {"b": 2}, {}, {"b": "all"}), np.random.default_rng(0))
    with pytest.raises(ValueError, match="Greedy of b gave 9 inputs and 0 targets for budgets 2 and 0"):
        BatchMasker({"b": Greedy(MODALITIES["b"].spec)}, VOCABULARY)([sample])


# The slow, obvious way, token by token


def slow_spans(ids: list[int], keep: list[bool]) -> tuple[list[int], list[int], list[int]]:
    """Input, target, and where in the target its sentinels stand."""
    shown, target, starts, run = [], [], [], 0
    for i, (token, kept) in enumerate(zip(ids, keep)):
        if kept:
            shown.append(token)
            continue
        if i == 0 or keep[i - 1]:
            shown.append(int(SENTINELS[run]))
            starts.append(len(target))
            target.append(int(SENTINELS[run]))
            run += 1
        target.append(token)
    starts.append(len(target))
    return shown, [*target, int(SENTINELS[run])], starts


def slow_trim(target: list[int], starts: list[int], budget: int, u: float) -> list[int]:
    if budget <= 0 or len(target) <= budget:
        return target if budget > 0 else []
    first = starts[int(u * (len(starts) - 1))]
    if len(target) - first < budget:
        first = next(start for start in starts if len(target) - start <= budget)
    return target[first : first + budget]


rows = st.lists(st.lists(st.booleans(), min_size=1, max_size=12), min_size=1, max_size=6)


@given(keeps=rows, budgets=st.lists(st.integers(-1, 20), min_size=6, max_size=6), seed=st.integers(0, 1000))
def test_spans_and_trimmed_targets_are_those_of_the_slow_obvious_way(keeps, budgets, seed):
    rng, length = np.random.default_rng(seed), np.array([len(keep) for keep in keeps])
    tokens = rng.integers(0, 900, (len(keeps), length.max()))
    bits = rng.random(tokens.shape) < 0.5  # what is beyond a sequence's end must not matter
    for r, keep in enumerate(keeps):
        bits[r, : len(keep)] = keep
    u, budget = rng.random(len(keeps)), np.array(budgets[: len(keeps)])
    spans = mask_spans(tokens, bits, length, SENTINELS)
    assert isinstance(spans, Spans)
    first, count = trim(spans, budget, u)
    inputs = np.split(spans.inputs, spans.n_inputs.cumsum())
    for r, keep in enumerate(keeps):
        shown, target, starts = slow_spans(tokens[r, : length[r]].tolist(), keep)
        assert inputs[r].tolist() == shown
        trimmed = slow_trim(target, starts, budgets[r], u[r])
        assert spans.targets[first[r] : first[r] + count[r]].tolist() == trimmed


def slow_lengths(n: int, inputs: int, targets: int, keep: str, rng: np.random.Generator) -> tuple[int, int, int]:
    """Of one sequence: ids shown, words among them, and labels."""
    p = {"random": rng.random(), "all": 1.0, "binary": float(rng.integers(2))}[keep] if inputs > 0 else 0.0
    while True:
        bits = [bool(rng.random() < p) for _ in range(n + 1)]
        shown, target, starts = slow_spans([*range(n), END], bits)
        if inputs <= 0 or len(shown) <= inputs:
            break
        p *= KEEP_DECAY
    shown = shown if inputs > 0 else []
    return len(shown), sum(i < 1000 for i in shown), max(len(slow_trim(target, starts, targets, rng.random())) - 1, 0)


@pytest.mark.parametrize(("inputs", "targets"), [(30, 30), (6, 12), (2, 4), (0, 8), (5, 0)])
@pytest.mark.parametrize("keep", ["random", "all", "binary"])
def test_sequences_are_masked_with_the_statistics_of_the_slow_obvious_way(inputs, targets, keep):
    n, number, rng = 20, 1500, np.random.default_rng(0)
    masker, keys = span_masker(), keys_of(*[rng] * number)
    budgets = np.full(number, inputs), np.full(number, targets)
    masked = mask_sequences([np.arange(100, 100 + n)] * number, [masker] * number, *budgets, [keep] * number, keys)
    word = (masked.inputs[0] >= 100) | (masked.inputs[0] == END)
    row = np.repeat(np.arange(number), masked.n_inputs)
    fast = np.stack((masked.n_inputs, np.bincount(row[word], minlength=number), masked.n_targets))
    slow = np.array([slow_lengths(n, inputs, targets, keep, rng) for _ in range(number)]).T
    for x, y in zip(fast, slow, strict=True):
        assert abs(x.mean() - y.mean()) <= 4.5 * ((x.var() + y.var()) / number) ** 0.5 + 1e-9
        assert abs((x == 0).mean() - (y == 0).mean()) < 4.5 * 0.5 * (2 / number) ** 0.5
        assert x.std() == pytest.approx(y.std(), abs=0.15 * y.std() + 0.05)


@given(seed=st.integers(0, 10**6))
def test_nothing_that_is_asked_for_is_shown_and_labels_are_what_stands_at_their_positions(seed):
    mask = BatchMasker(MASKERS, VOCABULARY)
    for sample, packed in zip(samples(seed, 4), mask(samples(seed, 4)), strict=True):
        for name in sample.drawn.modalities:
            entry, content = VOCABULARY[name], sample.contents[name]
            ids, at, _, _ = packed.encoder[:, packed.encoder[2] == entry.index]
            of_targets = packed.decoder[2] == entry.index
            given_ids, asked_at, _, order = packed.decoder[:, of_targets]
            labels = packed.labels[of_targets]
            if name == "words":
                assert at.tolist() == list(range(len(at)))
                assert asked_at.tolist() == order.tolist() == list(range(len(labels)))
                assert (given_ids[1:] - entry.start).tolist() == labels[:-1].tolist()  # each predicts the next
                seen = Counter(x for x in [*(ids - entry.start).tolist(), *labels.tolist()] if x >= FIRST_WORD)
                assert seen <= Counter(content.tolist())  # each token of the text on one side alone
                continue
            assert not set(at.tolist()) & set(asked_at.tolist())
            assert (given_ids == -1).all()
            if entry.size:
                assert (content[asked_at] == labels).all()
                assert (content[at] + entry.start == ids).all()

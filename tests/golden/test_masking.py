"""Budgets, span masking and decoding schedules follow the published ones: exactly where nothing is random, in
distribution elsewhere."""

from __future__ import annotations

import re

import numpy as np
import pytest

from fourm_engine.generate.schedules import temperatures, tokens_per_step
from fourm_engine.masking.budgets import Budgets
from fourm_engine.masking.config import Component, MaskingConfig
from fourm_engine.masking.span import SpanMasker, mask_sequences, mask_spans
from fourm_plugins.masker import SpecialTokens
from fourm_plugins.spec import FeatureMap, Grid, ModalitySpec, Sequence, Text, TokenizerRecipe, TokenSpace
from tests.golden.cases import CASES, Case, cases

ERRORS = 4.5  # standard errors
LEAST_DRAWS = 1000
KINDS = (
    "fm generate vqvae divae noise_schedules budgets span_masking sequence_mask_stats decoding_schedules wordpiece_ids"
)


def test_every_file_is_of_a_kind_that_is_known():
    assert CASES
    assert not [case.name for case in CASES if case.kind not in KINDS.split()]


def spec_of(name: str, tokens: int, *, sequence: bool) -> ModalitySpec:
    return ModalitySpec(
        name=name,
        layout=Sequence(max_tokens=tokens) if sequence else Grid(height=tokens, width=1),
        array=Text() if sequence else FeatureMap(channels=1, height=tokens, width=1),
        token_space=TokenSpace(name=name, size=1000),
        tokenizer=TokenizerRecipe(kind="any"),
        source="any",
        extensions=("bin",),
    )


def close(found: np.ndarray, mean: float, std: float, draws: float) -> bool:
    """Two samples of one distribution, the recorded one of `draws`."""
    return abs(found.mean() - mean) <= ERRORS * std * (1 / len(found) + 1 / draws) ** 0.5 + 1e-9


@pytest.mark.parametrize("case", cases("budgets"))
def test_budgets_have_the_recorded_distribution(case: Case):
    c = case.content
    names, alphas = c["modalities"], c["alphas"]
    number = len(alphas[names[0]]["input_alphas"])
    weights = c["sampling_weights"] or [1.0] * number
    mixture = [
        Component(
            name=str(i),
            weight=weights[i],
            input={name: alphas[name]["input_alphas"][i] for name in names},
            target={name: alphas[name]["target_alphas"][i] for name in names},
            keep={name: alphas[name]["keep"][i] for name in names if "keep" in alphas[name]},
        )
        for i in range(number)
        if weights[i] > 0
    ]
    config = MaskingConfig(
        input_tokens=c["input_tokens"],
        target_tokens=c["target_tokens"],
        min_tokens=c.get("min_tokens") or {},
        mixture=mixture,
    )
    specs = [spec_of(name, c["max_tokens"][name], sequence="keep" in alphas[name]) for name in names]
    budgets, rng = Budgets(config, specs), np.random.default_rng(0)
    drawn = [budgets.draw(rng, names) for _ in range(c["samples"])]
    for i, recorded in c["per_mixture_component"].items():
        own = [d for d in drawn if d.component == i]
        n, share = recorded["share"] * c["samples"], recorded["share"]
        assert close(np.array([d.component == i for d in drawn]), share, (share * (1 - share)) ** 0.5, c["samples"])
        if n < LEAST_DRAWS:
            continue
        assert {d for draw in own for d in draw.keep.items() if "keep" in alphas[d[0]]} == {
            (name, alphas[name]["keep"][int(i)]) for name in names if "keep" in alphas[name]
        }
        for side in ("input", "target"):
            counts = np.array([[getattr(d, f"{side}s").get(name, 0) for name in names] for d in own])
            for name, found in zip(names, counts.T, strict=True):
                want = recorded[side][name]
                where = f"component {i}, {side} {name}: mean {found.mean():.3f}, recorded {want['mean']:.3f}"
                assert close(found, want["mean"], want["std"], n), where
                zero = want["zero_share"]
                spread = max(zero * (1 - zero), 1 / n) ** 0.5  # of a rare zero, one may be seen
                assert close(found == 0, zero, spread, n), where


@pytest.mark.parametrize("case", cases("span_masking"))
def test_spans_are_masked_as_recorded(case: Case):
    sentinels = np.array([id_ for _, id_ in sorted((int(k), v) for k, v in case.content["sentinel_to_id"].items())])
    pairs = case.content["pairs"]
    length = np.array([len(pair["ids"]) for pair in pairs])
    tokens, keep = np.zeros((len(pairs), length.max()), np.int64), np.zeros((len(pairs), length.max()), bool)
    for r, pair in enumerate(pairs):
        tokens[r, : length[r]], keep[r, : length[r]] = pair["ids"], pair["keep"]
    spans = mask_spans(tokens, keep, length, sentinels[1:])
    assert spans.inputs.tolist() == [i for pair in pairs for i in pair["input"]]
    assert spans.targets.tolist() == [i for pair in pairs for i in pair["target"]]
    assert spans.n_inputs.tolist() == [len(pair["input"]) for pair in pairs]
    assert spans.length.tolist() == [len(pair["target"]) for pair in pairs]
    assert set(spans.targets[spans.starts]) <= set(sentinels)


@pytest.mark.parametrize("case", cases("sequence_mask_stats"))
def test_masked_sequences_are_as_long_as_recorded(case: Case):
    c, rng = case.content, np.random.default_rng(0)
    masker = SpanMasker(spec_of("text", 256, sequence=True), SpecialTokens(end_id=3, sentinel_ids=tuple(range(4, 204))))
    for stats in c["stats"]:
        ids, n = np.arange(300, 300 + stats["num_ids_with_eos"] - 1), c["samples"]
        budgets = np.full(n, stats["input_budget"]), np.full(n, stats["target_budget"])
        keys = rng.integers(0, 2**63, n).astype(np.uint64)
        masked = mask_sequences([ids] * n, [masker] * n, *budgets, [c["keep_scheme"]] * n, keys)
        for found, side in ((masked.n_inputs, "input"), (masked.n_targets + 1, "target")):
            want = stats[f"{side}_len"]
            where = f"{side} of {stats['input_budget']} + {stats['target_budget']} tokens: {found.mean():.3f}"
            assert close(found, want["mean"], want["std"], c["samples"]), where
            assert found.max() <= max(want["max"], stats[f"{side}_budget"]), where


@pytest.mark.parametrize("case", cases("decoding_schedules"))
def test_decoding_schedules_are_as_recorded(case: Case):
    for key, recorded in case.content.items():
        if key in ("cosine", "linear"):
            for steps_tokens, counts in recorded.items():
                steps, tokens = map(int, steps_tokens.split(","))
                assert tokens_per_step(key, steps, tokens) == counts, (key, steps_tokens)
            continue
        kind, schedule, steps, tokens = re.search(r"temperature_(\w+)\(.*?(cosine|linear) (\d+),(\d+)\)", key).groups()
        given = {name: float(value) for name, value in re.findall(r"(t|max|min|power)=([\d.]+)", key)}
        options = {"minimum": given["min"], "power": given["power"]} if kind == "onex" else {}
        heat = given["max"] if kind == "onex" else given["t"]
        found = temperatures(kind, tokens_per_step(schedule, int(steps), int(tokens)), temperature=heat, **options)
        np.testing.assert_allclose(found, recorded, rtol=0, atol=1e-9)

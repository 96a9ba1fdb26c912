"""Budgets have the published distribution, respect what a sample has, and never exceed what a modality holds."""

from __future__ import annotations

import json
import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fourm_engine.masking.budgets import Budgets
from fourm_engine.masking.config import Component, MaskingConfig
from fourm_plugins import FeatureMap, Grid, ModalitySpec, Sequence, Text, TokenizerRecipe, TokenSpace
from tests.fakes import fake_modalities

GOLDEN = json.loads((Path(__file__).parent.parent / "golden/cases/budgets_all2all_rgb2all_a0.5.json").read_text())


def spec_of(name: str, max_tokens: int) -> ModalitySpec:
    """A spec that holds `max_tokens`: a sequence if that is 256, and continuous if its name has no `tok_`."""
    name, sequence = name.partition("@")[0], max_tokens == 256
    continuous = not sequence and not name.startswith("tok_")
    side = int(max_tokens**0.5)
    return ModalitySpec(
        name=name,
        layout=Sequence(max_tokens=max_tokens) if sequence else Grid(height=side, width=side),
        array=Text() if sequence else FeatureMap(channels=3, height=side, width=side),
        token_space=None if continuous else TokenSpace(name=name, size=100),
        tokenizer=None if continuous else TokenizerRecipe(kind="none"),
        target=not continuous,
        source=name,
        extensions=("x",),
    )


def test_the_budgets_are_distributed_as_in_the_published_models():
    names = {full: full.partition("@")[0] for full in GOLDEN["modalities"]}
    mixture = []
    for c in range(2):
        sides = {
            side: {names[full]: a[f"{side}_alphas"][c] for full, a in GOLDEN["alphas"].items()}
            for side in ("input", "target")
        }
        mixture.append(Component(name=str(c), **sides))
    config = MaskingConfig(
        input_tokens=GOLDEN["input_tokens"], target_tokens=GOLDEN["target_tokens"], mixture=tuple(mixture)
    )
    budgets = Budgets(config, [spec_of(full, n) for full, n in GOLDEN["max_tokens"].items()])
    rng = np.random.default_rng(0)
    drawn = [budgets.draw(rng, list(names.values())) for _ in range(GOLDEN["samples"])]
    for c, expected in GOLDEN["per_mixture_component"].items():
        mine = [d for d in drawn if d.component == c]
        n = len(mine)
        assert n >= 1000
        assert abs(n / len(drawn) - 0.5) < 4.5 * 0.5 / len(drawn) ** 0.5
        for side, side_of in (("input", lambda d: d.inputs), ("target", lambda d: d.targets)):
            for full, facts in expected[side].items():
                counts = np.array([side_of(d).get(names[full], 0) for d in mine])
                # Both sides are samples, of about the same size.
                error = 4.5 * facts["std"] * (1 / n + 1 / (expected["share"] * GOLDEN["samples"])) ** 0.5
                assert abs(counts.mean() - facts["mean"]) <= error, (c, side, full)
                z = facts["zero_share"]
                error = 4.5 * (z * (1 - z) * (1 / n + 1 / (expected["share"] * GOLDEN["samples"]))) ** 0.5
                assert abs((counts == 0).mean() - z) <= error, (c, side, full)
        totals = np.array([sum(d.targets.values()) for d in mine])
        assert totals.max() <= 128
        error = 4.5 * max(expected["target_total"]["std"], totals.std()) * (2 / n) ** 0.5
        assert abs(totals.mean() - expected["target_total"]["mean"]) <= error


alphas = st.sampled_from([0.0, 0.05, 0.5, 5.0, 1000.0])


@given(
    alphas=st.lists(alphas, min_size=7, max_size=7),
    ranges=st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(1, 40), st.integers(0, 40)),
    available=st.sets(st.sampled_from(["a", "a@pixels", "b", "words"])),
    seed=st.integers(0, 1000),
)
def test_budgets_stay_within_totals_and_what_the_sample_and_its_modalities_hold(alphas, ranges, available, seed):
    specs = {name: m.spec for name, m in fake_modalities().items()}
    given_inputs = dict(zip(["a", "a@pixels", "b", "words"], alphas[:4]))
    given_targets = dict(zip(["a", "b", "words"], alphas[4:]))
    config = MaskingConfig(
        input_tokens=(ranges[0], ranges[0] + ranges[1]),
        target_tokens=(ranges[2], ranges[2] + ranges[3]),
        mixture=(Component(name="it", input=given_inputs, target=given_targets),),
    )
    try:
        budgets = Budgets(config, specs.values())
    except ValueError:
        assert not any(alphas[4:]) or (not any(alphas[:4]) and config.encoder_tokens)
        return
    drawn = budgets.draw(np.random.default_rng(seed), available)
    can_show = any(given_inputs[name] for name in available) or config.input_tokens[1] == 0
    assert (drawn is not None) == (can_show and any(given_targets.get(name) for name in available))
    if drawn is None:
        return
    assert sum(drawn.inputs.values()) <= config.encoder_tokens
    assert sum(drawn.targets.values()) <= config.decoder_tokens
    assert set(drawn.modalities) <= available
    for name in drawn.modalities:
        shown, asked, holds = drawn.inputs.get(name, 0), drawn.targets.get(name, 0), specs[name].layout.num_tokens
        assert shown <= holds
        assert asked <= holds
        assert name == "words" or shown + asked <= holds
        assert not shown or given_inputs[name] > 0
        assert not asked or given_targets[name] > 0


def test_a_sample_that_lacks_a_modality_gets_the_whole_budget_for_the_others():
    budgets = Budgets(MaskingConfig(input_tokens=6, target_tokens=4), [m.spec for m in fake_modalities().values()])
    for seed in range(50):
        drawn = budgets.draw(np.random.default_rng(seed), {"a"})
        assert drawn.inputs == {"a": 6}
        assert drawn.targets == {"a": 4}


def test_components_that_a_sample_cannot_serve_are_not_drawn_for_it():
    config = MaskingConfig(
        input_tokens=4,
        target_tokens=4,
        mixture=(
            Component(name="pixels", weight=1000, input={"a@pixels": 1}, target={"*": 1}),
            Component(name="labels", input={"b": 1}, target={"*": 1}),
        ),
    )
    budgets = Budgets(config, [m.spec for m in fake_modalities().values()])
    components = {budgets.draw(np.random.default_rng(seed), {"b", "words"}).component for seed in range(20)}
    assert components == {"labels"}
    assert budgets.draw(np.random.default_rng(0), {"words"}) is None


def test_components_are_drawn_by_their_weights():
    config = MaskingConfig(
        input_tokens=4, target_tokens=4, mixture=(Component(name="rare"), Component(name="often", weight=3))
    )
    budgets, rng = Budgets(config, [m.spec for m in fake_modalities().values()]), np.random.default_rng(0)
    often = np.mean([budgets.draw(rng, {"a", "b"}).component == "often" for _ in range(4000)])
    assert abs(often - 0.75) < 0.03


def test_the_wildcard_covers_what_is_not_named_and_may_take_that_part():
    component = Component(name="it", input={"*": 1, "b": 0}, target={"*": 1, "words": 0})
    budgets = Budgets(
        MaskingConfig(input_tokens=40, target_tokens=40, mixture=(component,)),
        [m.spec for m in fake_modalities().values()],
    )
    rng = np.random.default_rng(0)
    drawn = [budgets.draw(rng, {"a", "a@pixels", "b", "words"}) for _ in range(200)]
    assert {name for d in drawn for name in d.inputs} == {"a", "a@pixels", "words"}
    assert {name for d in drawn for name in d.targets} == {"a", "b"}


def test_modalities_that_are_not_installed_are_reported_once_and_left_out(caplog):
    mixture = (
        Component(name="one", input={"absent": 1, "a": 1}, target={"*": 1}),
        Component(name="two", input={"absent": 1}, target={"*": 1}),
    )
    with caplog.at_level(logging.WARNING):
        budgets = Budgets(MaskingConfig(mixture=mixture), [m.spec for m in fake_modalities().values()])
    assert sum("absent" in record.getMessage() for record in caplog.records) == 1
    assert any("'two' has no input" in record.getMessage() for record in caplog.records)
    assert budgets.draw(np.random.default_rng(0), {"a", "b"}).component == "one"


def test_asking_for_what_cannot_be_predicted_is_an_error():
    component = Component(name="it", target={"a@pixels": 1})
    with pytest.raises(ValueError, match=r"'it' has target 'a@pixels'.*only be input"):
        Budgets(MaskingConfig(mixture=(component,)), [m.spec for m in fake_modalities().values()])


def test_a_mixture_without_any_usable_component_is_an_error():
    with pytest.raises(ValueError, match="no component"):
        Budgets(MaskingConfig(), [fake_modalities()["a@pixels"].spec])


def draws(config, n, *, seed=0):
    """(n, 2, 3) counts: inputs and targets of a, b and words."""
    budgets, rng = Budgets(config, [m.spec for m in fake_modalities().values()]), np.random.default_rng(seed)
    drawn = [budgets.draw(rng, {"a", "b", "words"}) for _ in range(n)]
    return np.array([[[side.get(m, 0) for m in ("a", "b", "words")] for side in (d.inputs, d.targets)] for d in drawn])


def test_minima_leave_the_draws_that_keep_them():
    given = {"input_tokens": (4, 9), "target_tokens": 8}
    kept = draws(MaskingConfig(**given, min_tokens={"a": 2, "words": 1}), 2000)
    assert (kept >= [2, 0, 1]).all()
    assert abs(kept[:, 0].sum(1).mean() - 6.5) < 0.2  # totals are drawn once, before the tries
    # The slow, obvious way: all draws, less those that do not keep the minima.
    free = draws(MaskingConfig(**given), 12000, seed=1)[:, 1]
    right = free[(free >= [2, 0, 1]).all(1)]
    error = 5 * right.std(0) * (1 / len(right) + 1 / len(kept)) ** 0.5
    assert (abs(kept[:, 1].mean(0) - right.mean(0)) <= error).all()


def test_a_minimum_that_cannot_be_reached_leaves_draws_as_they_are(caplog):
    given = {"input_tokens": 6, "target_tokens": 6}
    for impossible in ({"a": 500}, {"b": 1}):
        component = Component(name="it", input={"*": 1, "b": 0}, target={"*": 1, "b": 0})
        config = MaskingConfig(**given, mixture=(component,), min_tokens=impossible)
        free = MaskingConfig(**given, mixture=(component,))
        assert np.array_equal(draws(config, 50), draws(free, 50))
    assert "min_tokens ask for 500" in caplog.text


def test_a_modality_that_is_input_only_does_not_void_the_minima_of_targets():
    config = MaskingConfig(input_tokens=8, target_tokens=8, min_tokens={"a@pixels": 1, "b": 2})
    budgets, rng = Budgets(config, [m.spec for m in fake_modalities().values()]), np.random.default_rng(0)
    for _ in range(200):
        drawn = budgets.draw(rng, {"a", "a@pixels", "b"})
        assert drawn.targets["b"] >= 2
        assert drawn.inputs["a@pixels"] >= 1


def test_maxima_cap_what_is_shown_and_asked_and_what_is_cut_off_is_lost():
    config = MaskingConfig(input_tokens=12, target_tokens=12, max_tokens={"a": 3, "words": 4})
    counts = draws(config, 500)
    assert (counts[:, :, 0].sum(1) <= 3).all()  # unordered: shown and asked together
    assert counts[:, :, 2].max() == 4
    assert counts.sum(2).min() < 12
    with pytest.raises(ValidationError, match="min_tokens of 'a' is 4, above its max_tokens 3"):
        MaskingConfig(min_tokens={"a": 4}, max_tokens={"a": 3})


def budgets_of(*mixture: Component, **settings) -> Budgets:
    config = MaskingConfig(**{"input_tokens": 6, "target_tokens": 6, "mixture": mixture, **settings})
    return Budgets(config, [m.spec for m in fake_modalities().values()])


def share_of(budgets: Budgets, component: str, available: set[str], n: int = 3000) -> float:
    rng = np.random.default_rng(0)
    return np.mean([budgets.draw(rng, frozenset(available)).component == component for _ in range(n)])


def test_a_component_is_drawn_only_for_samples_that_have_all_it_requires():
    budgets = budgets_of(Component(name="any"), Component(name="pairs", weight=1000, require=("a", "b")))
    assert share_of(budgets, "pairs", {"a", "b", "words"}, 200) > 0.9
    for lacking in ({"a", "words"}, {"b", "words"}, {"words", "a@pixels"}):
        assert share_of(budgets, "pairs", lacking, 200) == 0
    alone = budgets_of(Component(name="pairs", require=("a", "b")))
    assert alone.serve({"a", "b"})
    assert not alone.serve({"a", "words"})
    assert alone.draw(np.random.default_rng(0), {"a", "words"}) is None


def test_a_component_that_requires_what_is_not_installed_is_left_out_and_said(caplog):
    budgets = budgets_of(Component(name="any"), Component(name="pairs", weight=1000, require=("a", "absent")))
    assert "'pairs' requires absent, not among a, a@pixels, b, words, left out" in caplog.text
    assert share_of(budgets, "any", {"a", "b"}, 50) == 1


def test_samples_with_a_preferred_modality_draw_the_component_by_the_factor_more_often():
    budgets = budgets_of(Component(name="any"), Component(name="picky", prefer={"b": 3, "words": 2, "a@pixels": 0.5}))
    for available, factor in (({"a"}, 1), ({"a", "b"}, 3), ({"a", "b", "words"}, 6), ({"a", "a@pixels"}, 0.5)):
        expected = factor / (1 + factor)
        error = 4.5 * (expected * (1 - expected) / 3000) ** 0.5
        assert abs(share_of(budgets, "picky", available) - expected) < error, available


def test_what_a_component_ignores_is_neither_input_nor_target_of_it_even_where_present():
    budgets, rng = (
        budgets_of(Component(name="it", ignore=("b", "a@pixels")), min_tokens={"b": 2}),
        np.random.default_rng(0),
    )
    drawn = [budgets.draw(rng, {"a", "a@pixels", "b", "words"}) for _ in range(200)]
    assert {name for d in drawn for name in d.modalities} == {"a", "words"}
    assert not budgets.serve({"b", "a@pixels"})
    with pytest.raises(ValidationError, match="'it' ignores 'b', one of its inputs or targets"):
        Component(name="it", input={"b": 1}, ignore=("b",))
    with pytest.raises(ValidationError, match=r"require has \"\*\"; name the modalities"):
        Component(name="it", require=("*",))


def test_dropped_inputs_are_absent_among_the_inputs_with_their_probability_and_may_be_targets():
    everything = {"a", "a@pixels", "b", "words"}
    given = {"input_tokens": 16, "target_tokens": 16, "min_tokens": {"a": 1, "b": 1}}  # present unless dropped
    budgets = budgets_of(Component(name="it", input={"*": 5}, target={"*": 5}), **given, input_dropout={"a": 0.3})
    rng = np.random.default_rng(0)
    drawn = [budgets.draw(rng, everything) for _ in range(3000)]
    assert abs(np.mean(["a" not in d.inputs for d in drawn]) - 0.3) < 4.5 * (0.21 / 3000) ** 0.5
    assert all("b" in d.inputs and d.targets["a"] >= 1 for d in drawn)
    dropped = [sum(d.inputs.values()) for d in drawn if "a" not in d.inputs]
    assert min(dropped) > 8  # the others get its budget
    wild = budgets_of(Component(name="it"), input_dropout={"*": 1, "b": 0})
    assert {name for _ in range(100) for name in wild.draw(rng, everything).inputs} == {"b"}


def test_dropout_never_leaves_a_sample_without_inputs():
    budgets, rng = budgets_of(Component(name="it"), input_dropout={"*": 1.0}), np.random.default_rng(0)
    assert budgets.serve({"a"})
    assert budgets.draw(rng, {"a"}).inputs == {"a": 6}
    blind = budgets_of(Component(name="blind", input_tokens=0), input_dropout={"*": 1.0})
    assert blind.draw(rng, {"a"}).inputs == {}


def test_unknown_names_in_the_settings_of_missing_modalities_are_reported(caplog):
    budgets_of(Component(name="it", prefer={"one": 2}, ignore=("two",)), input_dropout={"three": 0.5})
    assert "left out: one, three, two" in caplog.text


def test_budgets_survive_being_copied_into_another_process():
    budgets = budgets_of(Component(name="it"), input_dropout={"a": 0.5})
    copy = pickle.loads(pickle.dumps(budgets))
    x, y = (b.draw(np.random.default_rng(1), {"a", "b"}) for b in (budgets, copy))
    assert x == y


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"input_tokens": [5, 3]}, "0 <= low <= high"),
        ({"input_tokens": -1}, "0 <= low <= high"),
        ({"input_tokens": 8, "encoder_capacity": 4}, "raise the capacity"),
        ({"mixture": [{"name": "x"}, {"name": "x"}]}, "same name"),
        ({"mixture": [{"name": "x", "weigth": 1}]}, "weigth"),
        ({"mixture": [{"name": "x", "input": {"*": -1}}]}, "greater than or equal to 0"),
        ({"target_tokens": [0, 5]}, "start target_tokens at 1"),
        ({"input_dropout": {"a": 1.5}}, "less than or equal to 1"),
        ({"sampler": "dirichet"}, "dirichlet"),
        ({"beta": [0, 1]}, "greater than 0"),
        ({"mixture": [{"name": "x", "prefer": {"a": 0}}]}, "greater than 0"),
    ],
)
def test_a_config_that_cannot_be_meant_is_refused(bad, message):
    with pytest.raises(ValidationError, match=message):
        MaskingConfig.model_validate(bad)


def test_capacities_follow_from_the_largest_totals():
    config = MaskingConfig.model_validate(
        {
            "input_tokens": [2, 10],
            "target_tokens": 7,
            "mixture": [{"name": "x"}, {"name": "y", "input_tokens": 0, "target_tokens": [1, 20]}],
        }
    )
    assert (config.encoder_tokens, config.decoder_tokens) == (10, 20)


def test_all_tokens_are_as_many_as_the_modalities_of_a_strategy_hold_at_their_present_size():
    whole = Component(
        name="whole", input={"rgb": 1000.0}, input_tokens="all", target={"*": 0.5, "tok_b": 0.0}, target_tokens="all"
    )
    config = MaskingConfig(
        input_tokens=(1, 20), target_tokens=8, sampler="fill", max_tokens={"words": 100},
        mixture=(whole, Component(name="any")),
    )  # fmt: skip
    assert config.open
    with pytest.raises(ValueError, match='"all" are a number once the modalities are known'):
        _ = config.sample_tokens
    for side in (16, 64):
        specs = [spec_of("rgb", side), spec_of("tok_a", side), spec_of("tok_b", side), spec_of("words", 256)]
        budgets = Budgets(config, specs)
        assert (budgets.config.encoder_tokens, budgets.config.decoder_tokens) == (max(side, 20), side + 100)
        drawn = [budgets.draw(np.random.default_rng(seed), [spec.name for spec in specs]) for seed in range(20)]
        shown = [(one.inputs, one.targets) for one in drawn if one.component == "whole"]
        assert shown
        assert all(one == ({"rgb": side}, {"tok_a": side, "words": 100}) for one in shown)
    with pytest.raises(ValueError, match="component 'whole' draws up to 64 input tokens, but the batch holds 32"):
        Budgets(config.model_copy(update={"encoder_capacity": 32}), specs)
    with pytest.raises(ValidationError, match="a number of tokens"):
        MaskingConfig(input_tokens="everything")

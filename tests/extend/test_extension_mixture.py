"""The masks of an extension: enough of the new, enough of the known, batches of the same shape."""

import numpy as np
import pytest

from fourm_engine.extend.mixture import as_input, as_target, extended, known, only
from fourm_engine.masking.budgets import Budgets
from fourm_engine.masking.config import Component, MaskingConfig
from tests.extend.growing import CLASSES, KNOWN

MASKING = MaskingConfig(
    input_tokens=(2, 12),
    target_tokens=16,
    mixture=(
        Component(name="pixels to all", weight=3, input={"a@pixels": 1000.0}),
        Component(name="any to any"),
        Component(name="nothing", input={}, input_tokens=0),
    ),
)


def spec(name):
    return CLASSES[name](name).spec


def draws(masking, names, n=3000):
    budgets = Budgets(masking, [spec(name) for name in names])
    return [budgets.draw(np.random.default_rng([5, i]), names) for i in range(n)]


def test_what_is_known_is_measured_under_the_very_masks_of_the_run():
    masking = MASKING.model_copy(update={"input_dropout": {"*": 0.3}})
    check_known(MASKING)
    check_known(masking)


def check_known(run):
    masking = known(run, [spec("b"), spec("more")])
    before, after = draws(run, KNOWN, 200), draws(masking, (*KNOWN, "b", "more"), 200)
    assert [(d.component, d.inputs, d.targets) for d in before] == [(d.component, d.inputs, d.targets) for d in after]
    assert (masking.encoder_tokens, masking.decoder_tokens) == (12, 16)


@pytest.mark.parametrize("replay", [0.0, 0.4, 1.0])
def test_the_share_of_replay_is_drawn_as_the_run_draws(replay):
    masking = extended(MASKING, [spec("b"), spec("more")], replay)
    own = {component.name for component in MASKING.mixture}
    found = draws(masking, (*KNOWN, "b", "more"))
    assert np.mean([d.component in own for d in found]) == pytest.approx(replay, abs=0.03)
    for name in ("b", "more"):
        asked = np.mean([set(d.targets) == {name} and d.component not in own for d in found])
        shown = np.mean([set(d.inputs) == {name} and d.component not in own for d in found])
        assert asked == pytest.approx((1 - replay) / 3, abs=0.03)
        assert shown == pytest.approx((1 - replay) / 6, abs=0.03)
    assert (masking.encoder_tokens, masking.decoder_tokens) == (12, 16)


def test_a_new_modality_is_asked_for_from_all_that_the_run_shows_but_itself():
    masking = only(MASKING, as_target(MASKING, spec("b")))
    found = draws(masking, (*KNOWN, "b"), 300)
    assert {name for d in found for name in d.targets} == {"b"}
    assert {name for d in found for name in d.inputs} == set(KNOWN)
    assert any(not d.inputs for d in found)


def test_a_new_modality_is_asked_for_under_a_strategy_that_ignores_it_and_by_the_samples_that_it_requires():
    run = MASKING.model_copy(
        update={"mixture": (Component(name="it", ignore=("b",), require=("a",), input={"*": 1}, target={"*": 1}),)}
    )
    masking = only(run, as_target(run, spec("b")))
    budgets = Budgets(masking, [spec(name) for name in (*KNOWN, "b")])
    assert set(budgets.draw(np.random.default_rng(0), {*KNOWN, "b"}).targets) == {"b"}
    assert not budgets.serve({*KNOWN, "b"} - {"a"})


def test_what_is_shown_alone_asks_for_known_modalities_only():
    new = [spec("b"), spec("more")]
    masking = only(MASKING, as_input(new[0], new))
    found = draws(masking, (*KNOWN, "b", "more"), 300)
    assert {name for d in found for name in d.inputs} == {"b"}
    assert {name for d in found for name in d.targets} == {"a", "words"}


def test_continuous_inputs_are_only_shown():
    assert as_target(MASKING, spec("c@pixels")) == []
    masking = extended(MASKING, [spec("c@pixels")], 0.0)
    assert all(set(d.inputs) == {"c@pixels"} for d in draws(masking, (*KNOWN, "c@pixels"), 100))


def test_a_run_that_names_no_input_but_the_new_one_still_asks_for_it():
    masking = MaskingConfig(mixture=(Component(name="b to all", input={"b": 1.0}),))
    assert as_target(masking, spec("b"))[0].input == {"*": 0.5, "b": 0.0}
    assert known(masking, [spec("b")]).mixture[0].input == {"*": 0.5, "b": 0.0}

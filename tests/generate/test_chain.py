"""What is generated on the way: given by names, by stages, or picked from the matrix of a run."""

from __future__ import annotations

import json
import re

import pytest

from fourm_engine.generate.chain import choose_chain, read_nats
from fourm_engine.generate.plan import Stage, default_plan
from tests.generate.toys import modalities, picture

COLOUR = {"colour": picture()}
#: A caption-like `words` says little of colour, but half of height, from which colour follows.
NATS = {
    "nothing": {"colour": 4.0, "height": 2.0, "pose": 1.0, "words": 3.0},
    "words": {"colour": 3.8, "height": 1.0, "pose": 0.99},
    "height": {"colour": 2.0, "pose": 0.4, "words": 2.9},
    "pose": {"colour": 3.9, "height": 1.9},
}


def matrix(run, rows=NATS, **more) -> None:
    lines = [{"step": 1, "loss": 3.0}, {"step": 2, "pairs": {"nothing": {"colour": 9.0}}}, {"step": 3, "pairs": rows}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line | more) + "\n" for line in lines) + "cut sho")


# Stages


def test_a_stage_without_a_scheme_takes_what_is_open_from_the_default_plan():
    mods = modalities()
    for given in (["colour@pixels"], []):
        for target in ("height", "pose", "words"):
            assert Stage(target).completed(mods, given) == default_plan(target, mods, given)[0]
    assert Stage("height", steps=4).completed(mods) == default_plan("height", mods, steps=4)[0]
    more = Stage("height", steps=4, schedule="linear", temperature=0.5).completed(mods)
    assert (more.scheme, more.schedule, more.temperature, more.top_p) == ("parallel", "linear", 0.5, 0.9)
    assert Stage("words", max_tokens=3).completed(mods).max_tokens == 3
    assert Stage("height", scheme="halton", steps=2).completed(mods) == Stage("height", scheme="halton", steps=2)
    assert repr(Stage("height", steps=4)) == "Stage('height', steps=4)"


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (Stage("words", steps=3), "steps has no effect on words"),
        (Stage("height", max_tokens=3), "stage of 'height': max_tokens applies to autoregressive decoding only"),
        (Stage("height", schedule="linear"), "stage of 'height': schedule has no effect on one step"),
    ],
)
def test_what_an_open_stage_says_must_have_an_effect(toys, stage, message):
    with pytest.raises(ValueError, match=message):
        toys.generate(COLOUR, stage.target, plan=[stage])


def test_a_plan_of_open_stages_is_the_default_one_and_draws_where_several_are_wanted(toys):
    a = toys.generate(COLOUR, ["height", "words"], seed=4)
    b = toys.generate(COLOUR, ["height", "words"], seed=4, plan=[Stage("height"), "words"])
    assert [x.tokens.tolist() for x in a.values()] == [x.tokens.tolist() for x in b.values()]
    many = toys.generate(COLOUR, "height", plan=[Stage("height")], n_samples=4)
    assert len({s["height"].tokens.tobytes() for s in many.samples}) > 1


# Chains


def test_what_is_generated_first_changes_what_follows_and_is_not_returned_unless_it_is_a_target(toys):
    alone = toys.generate(COLOUR, "words", temperature=0)
    after = toys.generate(COLOUR, "words", plan=["height", "words"], temperature=0)
    both = toys.generate(COLOUR, ["height", "words"], temperature=0)
    assert list(after) == ["words"]
    assert list(toys.generate(COLOUR, plan=["height", "words"], temperature=0)) == ["height", "words"]
    assert list(toys.generate(COLOUR, plan=[Stage("height", steps=2), Stage("height")])) == ["height"]
    assert after["words"].tokens.tolist() == both["words"].tokens.tolist() != alone["words"].tokens.tolist()


def test_a_generated_condition_has_a_weight_of_its_own_in_later_stages(toys):
    def words(weight):
        plan = [Stage("height"), Stage("words", temperature=0, guidance=None if weight is None else {"height": weight})]
        return toys.generate(COLOUR, "words", plan=plan)["words"].tokens.tolist()

    assert words(1.0) == words(None)
    assert words(0.0) == toys.generate(COLOUR, "words", temperature=0)["words"].tokens.tolist()
    assert len({tuple(words(w)) for w in (-4.0, 0.0, 1.0, 6.0)}) > 2
    common = toys.generate(COLOUR, ["height", "words"], temperature=0, guidance={"height": 6.0})
    assert common["words"].tokens.tolist() == words(6.0)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (["pose"], "target 'words' has no stage in the plan, which generates pose"),
        (["words", "pose"], "plan: 'pose' is neither a target nor seen by a later stage"),
        (["posse", "words"], "no modality 'posse'; did you mean 'pose'?"),
        ("words", "plan: 'words' is neither 'auto' nor a list of stages and names"),
        ([3], "plan: 3 is not a Stage"),
        ("auto", "plan='auto' reads a run's any-to-any matrix, and this model was not loaded from a run"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_in_one_line(toys, plan, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        toys.generate(COLOUR, "words", plan=plan)


# From a matrix


def test_the_modality_is_picked_that_the_input_tells_of_and_that_tells_of_the_target():
    chain, told = choose_chain(["words"], ["colour"], NATS, ["height", "pose", "words"])
    assert chain == ["height", "colour"]
    assert told == [
        "height before colour: 50% of it is known, which should lower colour from 3.80 to 2.90 nats per token"
    ]
    assert choose_chain(["height"], ["colour"], NATS, ["pose"])[0] == ["colour"]
    measured = {**NATS, "height + words": {"colour": 3.79}}  # what was measured of both counts, too
    assert choose_chain(["words"], ["colour"], measured, ["height"])[0] == ["height", "colour"]


def test_targets_come_in_the_order_in_which_they_are_known():
    assert choose_chain(["words"], ["colour", "pose", "height"], NATS, [])[0] == ["height", "pose", "colour"]
    assert choose_chain([], ["colour", "height"], NATS, [])[0] == ["colour", "height"]


def test_an_automatic_plan_is_that_of_the_chain_and_tells_why(toys, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    run.mkdir()
    matrix(run)
    monkeypatch.setattr(toys, "_origin", (run / "model", None))
    auto = toys.generate({"words": "abc"}, "colour", plan="auto", seed=5)
    assert list(auto) == ["colour"]
    named = toys.generate({"words": "abc"}, "colour", plan=["height", "colour"], seed=5)
    assert auto["colour"].tokens.tolist() == named["colour"].tokens.tolist()
    toys.generate({"words": "abc"}, "colour", plan="auto", explain=True, steps=2)
    told = capsys.readouterr().out
    assert "plan: height before colour: 50% of it is known" in told
    assert "1. height: parallel, 2 steps" in told
    assert "2. colour: parallel, 2 steps" in told


def test_the_matrix_of_an_evaluation_serves_where_the_run_wrote_none(tmp_path):
    (tmp_path / "evaluation").mkdir()
    cells = {name: {target: {"nats": x, "samples": 3} for target, x in row.items()} for name, row in NATS.items()}
    (tmp_path / "evaluation/evaluation.json").write_text(json.dumps({"format": 1, "matrix": {"cells": cells}}))
    assert read_nats(tmp_path / "model") == NATS
    matrix(tmp_path, {"nothing": {"height": 1.5}})
    assert read_nats(tmp_path / "model") == {"nothing": {"height": 1.5}}


@pytest.mark.parametrize(
    "content", ["", "[]", '{"pairs": 3}', '{"pairs": {"a": {"b": "c"}}}', '{"pairs": ' + "[" * 5000, "\x00"]
)
def test_a_run_without_a_matrix_says_what_is_missing(tmp_path, content):
    (tmp_path / "metrics.jsonl").write_text(content)
    if "c" in content:
        assert read_nats(tmp_path / "model") == {"a": {}}
        with pytest.raises(ValueError, match="the run's matrix has no row that predicts 'x' from nothing"):
            choose_chain([], ["x"], {"a": {}}, [])
        return
    with pytest.raises(ValueError, match=r"plan='auto' needs the run's any-to-any matrix.*train\.pairs_every"):
        read_nats(tmp_path / "model")


def test_an_input_that_was_not_measured_is_named():
    with pytest.raises(ValueError, match="the run's matrix has no row for colour; give the plan"):
        choose_chain(["colour"], ["height"], NATS, [])


# All targets


def test_without_targets_all_is_generated_that_is_not_given(toys):
    assert list(toys.generate(COLOUR)) == ["height", "pose", "words"]
    assert list(toys.generate({"words": "abc", "height": picture()[..., 0] / 255})) == ["colour", "pose"]
    assert list(toys.generate({})) == ["colour", "height", "pose", "words"]
    with pytest.raises(ValueError, match="the inputs give different modalities"):
        toys.generate_batch([COLOUR, {"words": "abc"}])
    everything = {"colour": picture(), "height": picture()[..., 0] / 255, "words": "abc", "pose": [0.0] * 6}
    with pytest.raises(ValueError, match="targets: the inputs give all that the model generates"):
        toys.generate(everything)


# Orders as an option


def test_a_scheme_is_an_option_of_grids_and_leaves_greedy_results_as_they_were(toys):
    plan = [Stage("height", scheme="halton", steps=4, temperature=1.0, top_p=0.9)]
    a = toys.generate(COLOUR, "height", scheme="halton", steps=4, seed=2)["height"]
    assert a.tokens.tolist() == toys.generate(COLOUR, "height", plan=plan, seed=2)["height"].tokens.tolist()
    assert [s.steps for s in default_plan(["height", "words"], modalities(), ["colour"], scheme="remask")] == [8, 1]
    assert default_plan("height", modalities(), ["colour"])[0].steps == 1


@pytest.mark.parametrize(
    ("targets", "options", "message"),
    [
        ("words", {"scheme": "halton"}, "scheme has no effect on words, decoded left to right"),
        ("height", {"scheme": "halton", "steps": 1}, "scheme 'halton' has no effect on one step"),
        ("height", {"order": {"share": 0.1}}, "sets a scheme; name the scheme"),
        ("height", {"scheme": "autoregressive"}, "scheme 'autoregressive' is the only one for sequences"),
        ("height", {"scheme": "halton", "order": {"share": 0.1}}, "order 'halton' has no setting 'share'"),
        ("height", {"scheme": "haltom"}, "haltom"),
        ("height", {"scheme": "parallel", "order": {"share": 0.1}}, "scheme 'parallel' has no settings"),
    ],
)
def test_a_scheme_without_effect_is_refused_in_one_line(toys, targets, options, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        toys.generate(COLOUR, targets, **options)
    assert "\n" not in str(caught.value)

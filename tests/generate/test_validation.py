"""What is requested is what comes back, or one line says why it cannot be."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from fourm_engine.generate.input_types import Condition, Ids
from fourm_engine.generate.plan import Stage, default_plan
from fourm_engine.model import FourM
from fourm_plugins.view import View
from tests.generate.toys import heights, modalities, picture


def distinct(results, target: str) -> int:
    return len({result[target].tokens.tobytes() for result in results})


def decoded(model: FourM, name: str, tokens: np.ndarray):
    return model.modalities[name].denormalise(model.tokenizers[name].decode([tokens])[0])


# Samples


@pytest.mark.parametrize("target", ["height", "pose", "words"])
@pytest.mark.parametrize(
    ("count", "options"),
    [
        (10, {"temperature": 1.0}),
        (10, {"temperature": 1.0, "steps": 1}),
        (10, {"top_p": 0.95}),
        (10, {"top_k": 8}),
        (10, {}),
    ],
)
def test_several_samples_of_one_input_differ_and_each_value_is_what_its_tokens_decode_to(model, target, count, options):
    if target == "words":
        options.pop("steps", None)
    results = model.generate_batch([{"colour": picture()}] * count, [target], **options)
    assert distinct(results, target) >= (2 if target == "pose" else 5)  # 3 tokens of 5 codes
    for result in results:
        assert result[target].decoded_from == "tokens"
        assert np.array_equal(decoded(model, target, result[target].tokens), result[target].value)


def test_a_temperature_draws_one_sample_too(model):
    seeds = [model.generate({"colour": picture()}, "height", seed=seed, temperature=1.0) for seed in range(6)]
    assert distinct(seeds, "height") >= 5


def test_without_randomness_the_answer_is_computed_whatever_the_seed_and_says_what_it_was_decoded_from(model):
    a, b = (model.generate({"colour": picture()}, ["height"], seed=seed)["height"] for seed in (0, 1))
    assert np.array_equal(a.value, b.value)
    assert a.decoded_from == "probabilities"
    assert not np.array_equal(decoded(model, "height", a.tokens), a.value)
    zero = model.generate({"colour": picture()}, ["height"], temperature=0)["height"]
    assert np.array_equal(zero.value, a.value)


def test_samples_of_several_inputs_side_by_side_are_drawn_too(model):
    results = model.generate_batch([{"colour": picture(0)}] * 4 + [{"colour": picture(2)}] * 4, ["height"])
    assert distinct(results[:4], "height") > 1
    assert distinct(results[4:], "height") > 1


def test_a_data_set_with_equal_samples_is_computed_sample_by_sample(model):
    results = model.generate_batch([{"colour": picture(0)}, {"colour": picture(1)}, {"colour": picture(0)}], ["height"])
    assert all(result["height"].decoded_from == "probabilities" for result in results)
    assert np.array_equal(results[0]["height"].value, results[2]["height"].value)


def test_equal_seeds_are_taken_at_their_word(model):
    results = model.generate_batch([{"colour": picture()}] * 2, ["height"], seeds=[3, 3], temperature=0)
    assert distinct(results, "height") == 1


def test_where_randomness_is_requested_the_plan_draws_every_target():
    for plan in (
        default_plan(["height", "pose"], modalities(), ["colour@pixels"], temperature=0.5),
        default_plan(["height", "pose"], modalities(), ["colour@pixels"], several=True),
    ):
        assert [stage.readout for stage in plan] == ["sampled", "sampled"]
        assert [stage.steps for stage in plan] == [8, 3]  # a step a token at most
        assert not any(stage.deterministic for stage in plan)


# Edits


@pytest.mark.parametrize("target", ["height", "colour"])
@pytest.mark.parametrize("unit", ["tokens", "pixels"])
@pytest.mark.parametrize("options", [{}, {"temperature": 1.0}, {"steps": 1}])
def test_what_is_given_of_a_picture_comes_back_as_it_was_given(model, target, unit, options):
    value = heights(3) if target == "height" else picture(3)
    keep = np.arange(16).reshape(4, 4) % 3 > 0 if unit == "tokens" else np.random.default_rng(0).random((8, 8)) < 0.9
    out = model.generate({target: Condition(value, keep=keep), "words": "ab"}, [target], **options)[target]
    kept = keep.repeat(2, 0).repeat(2, 1) if unit == "tokens" else keep
    assert np.array_equal(out.value[kept], value[kept])
    assert not np.array_equal(out.value[~kept], value[~kept])
    assert np.array_equal(out.given, kept)
    assert out.value.dtype == value.dtype


def test_what_is_given_comes_back_as_the_view_of_the_model_shows_it(model):
    value = picture(4, 16, 24)  # a centre crop of 16 x 16 is shrunk to 8 x 8
    keep = np.ones((16, 24), np.bool_)
    keep[:8] = False
    keep[15, 4] = False  # one pixel of the last row's first
    out = model.generate({"colour": Condition(value, keep=keep)}, ["colour"])["colour"]
    seen = model.modalities["colour"].augment(value, View.centre(source_aspect=1.5))
    assert np.array_equal(out.value[out.given], seen[out.given])
    assert out.given.sum() == 31
    assert out.given[4:].sum() == 31
    assert not out.given[7, 0]


def test_ids_that_are_given_stay_the_ids_they_are(model):
    ids, keep = np.arange(16) % 8, np.arange(16) < 9
    out = model.generate({"height": Condition(Ids(ids), keep=keep)}, ["height"])["height"]
    assert np.array_equal(out.tokens[keep], ids[keep])
    assert out.given is None
    assert np.array_equal(decoded(model, "height", out.tokens), out.value)


def test_a_text_that_is_continued_begins_as_it_was_given(model):
    """The toys' letters know no capitals and no digits; what is given has some, and keeps them."""
    out = model.generate({"words": "aXb7"}, ["words"], temperature=0)["words"]
    assert out.value.startswith("aXb7")
    assert decoded(model, "words", out.tokens) == "ab" + out.value[4:]


# Refusals


HEIGHT = {"target": "height", "scheme": "parallel"}
COLOUR = {"colour": picture()}


@pytest.mark.parametrize(
    ("inputs", "targets", "options", "message"),
    [
        (COLOUR, [], {}, "targets: none is given"),
        (COLOUR, [3], {}, "targets: 3 is not the name"),
        (COLOUR, {"height", "pose"}, {}, "targets: a set has no order"),
        (picture(), ["height"], {}, "inputs are {name: value}, not ndarray"),
        ({1: picture()}, ["height"], {}, "inputs: 1 is not the name"),
        (
            COLOUR,
            ["height"],
            {"temperature": -1},
            "temperature: must be greater than or equal to 0 (given: -1)",
        ),
        (COLOUR, ["height"], {"temperature": float("nan")}, "temperature: must be a finite number"),
        (COLOUR, ["height"], {"temperature": "hot"}, "temperature: must be a number"),
        (COLOUR, ["height"], {"steps": 0}, "steps: must be greater than or equal to 1"),
        (COLOUR, ["height"], {"top_p": 0}, "top_p: must be greater than 0"),
        (COLOUR, ["height"], {"temperature": 0, "top_p": 0.9}, "top_p has no effect at temperature 0"),
        (COLOUR, ["height"], {"temperature": 0, "top_k": 3}, "top_k has no effect at temperature 0"),
        (COLOUR, ["height", "pose"], {"steps": 17}, "steps 17 are more than the 16 tokens of 'height'"),
        (COLOUR, ["words"], {"steps": 2}, "steps has no effect on words"),
        (COLOUR, ["height"], {"seed": "x"}, "a seed is an integer; given: 'x'"),
        (COLOUR, ["height"], {"seed": -1}, "seed -1 is not in [0, 2^64)"),
        ({}, ["height"], {"guidance": 2.0}, "guidance has no effect on 'height': nothing else is given"),
        (COLOUR, ["height"], {"guidance": "much"}, "guidance: a finite number, or one per input"),
        (COLOUR, ["height"], {"guidance": {}}, "guidance: it names no condition"),
        (
            COLOUR,
            ["height"],
            {"guidance": {"color": 2.0}},
            "'color', which is not a condition of height; did you mean 'colour'?",
        ),
        (
            COLOUR,
            ["height"],
            {"guidance": {"words": 2.0}},
            "'words', which is not a condition of height; conditions are: colour",
        ),
        (
            {"colour": Condition(picture(), weight=2.0)},
            ["height"],
            {"guidance": 2.0},
            "guidance is given both with colour and in the plan",
        ),
        ({"colour": picture()}, ["height"], {"guidance": float("inf")}, "guidance: a finite number"),
        (COLOUR, ["height"], {"guidance": {"colour": 2, "colour@pixels": 3}}, "guidance names 'colour' twice"),
        (COLOUR, ["height"], {"prompt_sentinel": True}, "prompt_sentinel has no effect on height"),
        (
            {"height": Condition(heights(), keep=np.ones(16, bool))},
            ["height"],
            {},
            "keep covers all that the model sees",
        ),
        (
            {"height": Condition(heights(), keep=np.zeros(16, bool))},
            ["height"],
            {},
            "keep covers no whole token, 2x2 pixels",
        ),
        (
            {"colour": Condition(picture(), keep=np.ones(16, bool))},
            ["height"],
            {},
            "keep covers all that the model sees",
        ),
        ({"words": "abcdefghijkl"}, ["words"], {}, "'words': 12 of at most 10 tokens are given"),
        ({"words": ""}, ["words"], {}, "'words': nothing of it is given"),
        (COLOUR, ["height"], {"plan": [HEIGHT]}, "is not a Stage"),
        (COLOUR, ["pose"], {"plan": [Stage(**HEIGHT)]}, "target 'pose' has no stage in the plan"),
        (COLOUR, ["height"], {"plan": [Stage(**HEIGHT)], "steps": 2}, "steps: the stages of the plan say how"),
        (COLOUR, ["height"], {"plan": [Stage(**HEIGHT, steps=17)]}, "steps 17 is more than its 16 tokens"),
        (
            COLOUR,
            ["height"],
            {"plan": [Stage(**HEIGHT), Stage(target="pose", scheme="parallel")]},
            "'pose' is neither a target nor seen by a later stage",
        ),
        ({}, ["height"], {"plan": Stage(**HEIGHT, guidance=2.0)}, "guidance has no effect on 'height'"),
    ],
)
def test_a_request_that_cannot_be_or_would_have_no_effect_is_refused_in_one_line(
    model, inputs, targets, options, message
):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        model.generate(inputs, targets, **options)
    assert "\n" not in str(caught.value)
    assert "@pixels" not in str(caught.value).replace("'colour@pixels'; drop", "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0}, "10 samples of one input with a plan that draws nothing"),
        ({"top_k": 1}, "are all the same"),
        ({"plan": [Stage(**HEIGHT, steps=4)]}, "are all the same"),
        ({"seeds": range(9)}, "10 samples, but 9 seeds"),
        ({"seeds": range(10), "seed": 4}, "seed has no effect together with seeds"),
        ({"batch_size": 0}, "batch_size must be at least 1; given: 0"),
    ],
)
def test_ten_samples_that_could_not_differ_are_refused(model, options, message):
    with pytest.raises(ValueError, match=message):
        model.generate_batch([COLOUR] * 10, ["height"], **options)


def test_a_misspelt_option_is_named(model):
    with pytest.raises(ValueError, match=r"temprature: unknown key; did you mean temperature\?"):
        model.generate_batch([COLOUR], ["height"], temprature=1)
    with pytest.raises(ValueError, match=r"temprature: unknown key; did you mean temperature\?"):
        model.generate(COLOUR, ["height"], temprature=1)


@pytest.mark.parametrize("weight", [float("nan"), "2", [1]])
def test_a_weight_is_a_finite_number(weight):
    with pytest.raises(ValueError, match="the weight of a Condition is a finite number; given: "):
        Condition(picture(), weight=weight)


def test_one_mapping_is_no_list_of_inputs(model):
    with pytest.raises(ValueError, match="inputs is a list of mappings, not a mapping"):
        model.generate_batch(COLOUR, ["height"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({**HEIGHT, "step": 3}, "stage of 'height': step: unknown key; did you mean steps?"),
        ({**HEIGHT, "temperature_min": 0.2}, "temperature_min applies to temperature_schedule='onex' only"),
        (
            {**HEIGHT, "steps": 4, "temperature_schedule": "linear"},
            "temperature_schedule has no effect at temperature 0",
        ),
        ({**HEIGHT, "temperature": 1, "temperature_schedule": "linear"}, "no effect on one step"),
        ({**HEIGHT, "schedule": "linear"}, "schedule has no effect on one step"),
        ({**HEIGHT, "top_k": 5}, "top_k has no effect at temperature 0"),
        ({**HEIGHT, "temperature": 1, "readout": "expected"}, "the expected code of one step"),
        ({**HEIGHT, "max_tokens": 5}, "max_tokens applies to autoregressive decoding only"),
        ({"target": "words", "scheme": "autoregressive", "schedule": "linear"}, "schedule does not apply"),
        ({"target": "words", "scheme": "autoregressive", "readout": "expected"}, "readout does not apply"),
    ],
)
def test_a_stage_refuses_settings_without_effect_in_one_line(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        Stage(**settings)
    assert "\n" not in str(caught.value)


def test_options_reach_the_targets_on_which_they_have_an_effect(model):
    """Of several targets, each takes what applies to it."""
    out = model.generate({}, ["height", "pose", "words"], steps=5, guidance={"height": 2.0}, prompt_sentinel=True)
    assert list(out) == ["height", "pose", "words"]


def test_a_target_may_be_one_name(model):
    assert list(model.generate(COLOUR, "height")) == ["height"]
    assert default_plan("height", modalities(), ["colour"])[0].target == "height"
    with pytest.raises(ValueError, match="no modality 'heigth'; did you mean 'height'"):
        model.generate(COLOUR, "heigth")
    with pytest.raises(ValueError, match="no modality 'heigth'; available: colour, "):
        default_plan("heigth", modalities())


# Devices


def test_a_model_moves_with_its_tokenizers(model):
    moved = {}
    for name, tokenizer in model.tokenizers.items():
        tokenizer.to = lambda device, name=name: moved.update({name: device})
    assert model.to("cpu") is model
    assert moved == dict.fromkeys(model.tokenizers, torch.device("cpu"))


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("gpu", "device 'gpu' cannot be used here"),
        ("cuda:99", "device 'cuda:99' cannot be used here"),
        (torch.bfloat16, "device is a torch.device or its name"),
    ],
)
def test_a_device_that_is_not_there_is_refused_in_one_line(model, device, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        model.to(device)
    assert "\n" not in str(caught.value)

"""FourM: what goes in, what comes out, and what a folder on disk can and cannot do."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fourm_engine
from fourm_engine.batch import Tokens
from fourm_engine.cli.generate import generate
from fourm_engine.evaluate.matrix import nats_by_sample
from fourm_engine.generate.input_types import Condition, Ids
from fourm_engine.generate.plan import Stage
from fourm_engine.generate.sample import Sample
from fourm_engine.masking.pack import Shown, pack_inputs
from fourm_engine.model import FourM
from tests.generate.toys import heights, picture


@pytest.mark.parametrize("name", fourm_engine.__all__)
def test_all_that_the_package_offers_can_be_imported(name):
    assert getattr(fourm_engine, name).__module__.startswith("fourm_engine.")


# Generating


def test_a_result_has_value_tokens_and_a_picture_or_text(model):
    out = model.generate({"colour": picture()}, ["height", "words"], seed=0)
    assert list(out) == ["height", "words"]
    assert out["height"].value.shape == (8, 8)
    assert out["height"].tokens.shape == (16,)
    assert out["height"].render().size == (8, 8)
    assert isinstance(out["words"].value, str)
    assert out["words"].render() == out["words"].value
    assert out["height"].modality is model.modalities["height"]


def test_a_batch_gives_what_each_sample_gives_alone(model):
    inputs = [{"colour": picture(i), "words": "ab" * i} for i in range(3)] + [{}]
    together = model.generate_batch(inputs, ["height", "pose"], seed=5, batch_size=2, temperature=1.0)
    for i, sample in enumerate(inputs):
        alone = model.generate(sample, ["height", "pose"], seed=5 + i, temperature=1.0)
        assert np.array_equal(alone["height"].tokens, together[i]["height"].tokens)
        assert np.array_equal(alone["pose"].tokens, together[i]["pose"].tokens)


def test_a_raw_value_is_shown_as_pixels_where_the_model_has_them_and_ids_as_tokens(model):
    sample, names = model.reader.read({"colour": picture()}, ["height"])
    assert names == {"colour": "colour@pixels"}
    assert sample.shown["colour@pixels"].features.shape == (16, 12)
    ids = model.tokenizers["colour"].encode([model.modalities["colour"].normalise(picture())])[0]
    sample, names = model.reader.read({"colour": Ids(ids)}, ["height"])
    assert np.array_equal(sample.shown["colour"].ids, ids)
    assert names == {"colour": "colour"}


def test_files_pictures_and_arrays_of_the_same_picture_are_one_input(model, tmp_path):
    value = picture(1, 12, 16)
    Image.fromarray(value).save(tmp_path / "photo.png")
    shown = [
        model.reader.read({"colour": given}, [])[0].shown["colour@pixels"].features
        for given in (value, Image.fromarray(value), tmp_path / "photo.png")
    ]
    assert np.array_equal(shown[0], shown[1])
    assert np.array_equal(shown[0], shown[2])


def test_aligned_inputs_share_one_centre_crop_and_must_be_of_one_shape(model):
    value, ground = picture(1, 8, 16), heights(2, 8, 16)
    shown = model.reader.read({"colour": value, "height": ground}, [])[0].shown
    middle = model.reader.read({"colour": value[:, 4:12], "height": ground[:, 4:12]}, [])[0].shown
    assert np.array_equal(shown["colour@pixels"].features, middle["colour@pixels"].features)
    assert np.array_equal(shown["height"].ids, middle["height"].ids)
    with pytest.raises(ValueError, match="'colour' and 'height' are aligned"):
        model.reader.read({"colour": value, "height": heights()}, [])


def test_a_sentence_is_shown_with_its_end_marker(model):
    sample, _ = model.reader.read({"words": "abc"}, [])
    assert sample.shown["words"].ids.tolist() == [8, 9, 10, 1]
    long, _ = model.reader.read({"words": "a" * 50}, [])
    assert long.shown["words"].ids.tolist() == [8] * 10  # cut as in training


@pytest.mark.parametrize("unit", ["tokens", "pixels"])
def test_what_is_known_of_a_picture_stays_and_the_rest_is_made(model, unit):
    value, ids = heights(3), model.tokenizers["height"].encode([heights(3)[None]])[0]
    keep = np.zeros((4, 4), np.bool_)
    keep[:, :2] = True
    mask = keep if unit == "tokens" else keep.repeat(2, 0).repeat(2, 1)
    if unit == "pixels":
        mask[0, 0] = False  # a token of which one pixel is unknown is unknown
    out = model.generate({"height": Condition(value, keep=mask), "colour": picture()}, ["height"], steps=3)
    same = out["height"].tokens.reshape(4, 4) == ids.reshape(4, 4)
    known = keep.copy()
    known[0, 0] = unit == "tokens"
    assert same[known].all()
    sample, _ = model.reader.read({"height": Condition(value, keep=mask)}, ["height"])
    assert sample.known["height"].pos.tolist() == np.flatnonzero(known).tolist()


def test_a_part_of_an_input_that_is_no_target_is_shown_alone(model):
    keep = np.arange(16) < 5
    sample, _ = model.reader.read({"colour": Condition(picture(), keep=keep)}, ["height"])
    assert sample.shown["colour@pixels"].pos.tolist() == [0, 1, 2, 3, 4]


def test_a_begun_sentence_is_continued(model):
    out = model.generate({"words": "hello"}, ["words"], temperature=0.0)
    assert out["words"].value.startswith("hello")


def test_guidance_takes_the_names_of_the_inputs(model):
    inputs = {"colour": picture(), "words": "abc"}
    plain = model.generate(inputs, ["height"])["height"].tokens
    both = model.generate(inputs, ["height"], guidance={"colour": 1.0})["height"].tokens
    assert np.array_equal(plain, both)
    only_words = model.generate({"words": "abc"}, ["height"], plan=[Stage(target="height", scheme="parallel")])
    none = model.generate(inputs, ["height"], guidance={"colour": 0.0})["height"].tokens
    assert np.array_equal(none, only_words["height"].tokens)
    weighted = {**inputs, "colour": Condition(picture(), weight=0.0)}
    assert np.array_equal(model.generate(weighted, ["height"])["height"].tokens, none)


def test_a_plan_may_make_more_than_is_asked_for(model):
    plan = [Stage(target="colour", scheme="parallel", steps=2), Stage(target="height", scheme="parallel")]
    out = model.generate({"words": "abc"}, ["height"], plan=plan)
    assert list(out) == ["height"]
    both = model.generate({"words": "abc"}, ["colour", "height"], plan=plan)
    assert np.array_equal(both["height"].tokens, out["height"].tokens)


def test_the_expected_code_is_decoded_in_one_step(model):
    out = model.generate({"colour": picture()}, ["height"])["height"]
    centres = (np.arange(8) + 0.5) / 4 - 1
    assert not np.isin(out.value.round(5), centres.round(5)).all()
    sampled = model.generate({"colour": picture()}, ["height"], steps=4)["height"]
    assert np.isin(sampled.value.round(5), centres.astype(np.float32).round(5)).all()


@pytest.mark.parametrize(
    ("inputs", "targets", "message"),
    [
        ({}, ["heigth"], "no modality 'heigth'; did you mean 'height'"),
        ({"color": 1}, ["height"], "no modality 'color'; did you mean 'colour'"),
        ({"colour": picture()}, ["colour@pixels"], "'colour@pixels' is input only"),
        ({}, ["height", "height"], "requested twice"),
        ({"height": Ids([0] * 16)}, ["height"], "'height' is both given in full and a target"),
        ({"height": Ids([0] * 15)}, ["pose"], "15 ids, but it has 16 tokens"),
        ({"height": Ids([8] + [0] * 15)}, ["pose"], r"id 8 is outside \[0, 8\)"),
        ({"colour@pixels": Ids([0] * 16)}, ["pose"], "has no token ids"),
        ({"colour": "photo.png"}, ["pose"], "input 'colour': no such file: photo.png"),
        ({"colour": Path("nowhere.png")}, ["pose"], "no such file"),
        ({"colour": picture().astype(np.float64)}, ["pose"], "input 'colour'"),
        ({"words": Condition("abc", keep=np.ones(3, bool))}, ["pose"], "keep masks are for grids"),
        ({"height": Condition(heights(), keep=np.ones((3, 3), bool))}, ["height"], r"keep has shape \(3, 3\)"),
        ({"height": Condition(heights(), keep=np.ones((4, 4)))}, ["height"], "keep must be bool"),
        ({"colour": picture(), "colour@pixels": picture()}, ["pose"], "both shown as"),
    ],
)
def test_what_cannot_be_is_refused_with_its_name(model, inputs, targets, message):
    with pytest.raises(ValueError, match=message):
        model.generate(inputs, targets)


def test_features_of_the_encoder(model):
    features, valid = model.encode([{"colour": picture(), "words": "abc"}, {"words": "a"}])
    assert features.shape == (2, 20, 32)
    assert valid.sum(1).tolist() == [20, 2]


# Likelihood


@pytest.mark.parametrize("target", ["height", "words", "pose"])
def test_nats_are_minus_the_log_probability_of_the_true_tokens(model, target):
    rng = np.random.default_rng(0)
    samples = [
        {
            "colour": rng.integers(0, 16, 16),
            "height": rng.integers(0, 8, 16),
            "pose": rng.integers(0, 5, 3),
            "words": rng.integers(8, 35, n),
        }
        for n in (3, 5, 12)
    ]
    nats, tokens = nats_by_sample(model, samples, ["colour"], [target], batch_size=2)[target]
    assert tokens.sum() == {"height": 48, "pose": 9, "words": 4 + 6 + 10}[target]
    expected = 0.0
    for sample in samples:
        shown = {"colour": Shown.tokens(sample["colour"])}
        if target == "words":
            ids = [*sample["words"], 1][:10]
            expected -= sum(_log_p(model, shown, ids[:i], ids[i]) for i in range(len(ids)))
        else:
            stage = Stage(target=target, scheme="parallel", readout="expected")
            filled = model.sampler.run([Sample(shown)], [stage], [0])[0][target]
            chosen = filled.probabilities[np.arange(len(sample[target])), sample[target]]
            expected -= float(np.log(chosen).sum())
    assert nats.sum() == pytest.approx(expected, rel=1e-4)


@torch.no_grad()
def _log_p(model: FourM, shown: dict[str, Shown], before: list[int], id_: int) -> float:
    entry = model.vocabulary["words"]
    tokens, continuous = pack_inputs([shown], model.vocabulary, 16, "cpu")
    context, valid = model.network.encode(tokens, continuous)
    ids = torch.tensor([[3, *before]]) + entry.start
    rank = torch.arange(ids.shape[1])[None]
    y = model.network.decode(Tokens(ids, rank, torch.full_like(rank, entry.index), rank), context, valid)
    return float(model.network.logits(y[0, -1], "words").log_softmax(-1)[id_])


# On the command line


def test_the_command_writes_files_and_pictures(model, tmp_path, capsys):
    model.save_pretrained(tmp_path / "model")
    Image.fromarray(picture()).save(tmp_path / "photo.png")
    generate(
        str(tmp_path / "model"),
        target=["height", "words"],
        out=tmp_path / "out",
        given=[f"colour={tmp_path / 'photo.png'}"],
        device="cpu",
    )
    assert sorted(os.listdir(tmp_path / "out")) == ["height.npy", "height.view.png", "words.txt"]
    assert "words: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["colour"], "expected NAME=FILE"),
        (["colour=nowhere.png"], "no such file: nowhere.png"),
        (["words=abc", "words=abd"], "given twice"),
        (["wrods=abc"], "no modality 'wrods'; did you mean 'words'"),
    ],
)
def test_the_command_names_what_is_wrong(model, tmp_path, given, message):
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=message):
        generate(str(tmp_path / "model"), target=["height"], out=tmp_path / "out", given=given, device="cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 3, "temperature": 0.0}, "3 samples of one input with a plan that draws nothing"),
        ({"temperature": 0.0, "top_p": 0.9}, "top_p has no effect at temperature 0"),
        ({"steps": 17}, "steps 17 are more than the 16 tokens of 'height'"),
        ({"guidance": ["2.0"]}, "guidance has no effect on 'height'"),
        ({"device": "gpu"}, "device 'gpu' cannot be used here"),
        ({"seed": -1}, "seed -1 is not in"),
    ],
)
def test_the_command_refuses_what_would_have_no_effect_and_writes_nothing(model, tmp_path, options, message):
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=message):
        generate(str(tmp_path / "model"), target=["height"], out=tmp_path / "out", **{"device": "cpu", **options})
    assert not (tmp_path / "out").exists()


def test_samples_of_the_command_differ_and_a_single_answer_says_that_it_was_not_drawn(model, tmp_path, capsys):
    model.save_pretrained(tmp_path / "model")
    Image.fromarray(picture()).save(tmp_path / "photo.png")
    common = {"target": ["height"], "given": [f"colour={tmp_path / 'photo.png'}"], "device": "cpu"}
    generate(str(tmp_path / "model"), out=tmp_path / "one", **common)
    assert "height: decoded from the model's probabilities" in capsys.readouterr().out
    generate(str(tmp_path / "model"), out=tmp_path / "four", samples=4, **common)
    assert "probabilities" not in capsys.readouterr().out
    assert len({path.read_bytes() for path in (tmp_path / "four").glob("*.npy")}) > 1


def test_a_model_is_loaded_on_a_device_and_with_names_given_one_by_one(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="device 'gpu' cannot be used here"):
        FourM.from_pretrained(tmp_path / "model", device="gpu")
    alone = FourM.from_pretrained(tmp_path / "model", device="cpu", domains="height")
    assert list(alone.modalities) == ["height"]
    without = FourM.from_pretrained(tmp_path / "model", device="cpu", disable="pose")
    assert "pose" in without.missing


@pytest.mark.parametrize("collects", [True, False])
def test_importing_the_model_leaves_the_garbage_collector_as_it_was(collects):
    (gc.enable if collects else gc.disable)()
    try:
        assert fourm_engine.FourM
        assert gc.isenabled() == collects
    finally:
        gc.enable()

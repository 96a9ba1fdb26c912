"""What would run is told, as it then runs, and nothing runs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fourm_engine.generate.guidance import Guide
from fourm_engine.generate.input_types import Condition
from fourm_engine.generate.plan import Stage
from fourm_engine.generate.schedules import tokens_per_step
from fourm_engine.nn.transformer import Transformer
from tests.generate.toys import picture

COLOUR = {"colour": picture()}


def test_explaining_prints_the_plan_and_runs_neither_network_nor_tokenizer(toys, monkeypatch, capsys):
    def refuse(*_args, **_more):
        raise AssertionError("something ran")

    for method in ("encode", "decode", "decode_step", "logits"):
        monkeypatch.setattr(Transformer, method, refuse)
    for name in ("colour", "height", "pose"):
        monkeypatch.setattr(toys.tokenizers[name], "encode", refuse)
        monkeypatch.setattr(toys.tokenizers[name], "decode", refuse)
    given = {"height": picture()[..., 0].astype("float32") / 255, "words": "abc"}
    out = toys.generate(given, ["colour", "pose"], guidance={"words": [0, 3]}, scheme="halton", explain=True)
    text = capsys.readouterr().out
    assert not out
    assert text == f"{out.explanation}\n"
    lines = text.splitlines()
    assert lines[0] == "given: height (16 tokens), words (4 tokens)"
    assert lines[1] == "1. colour: halton, 8 steps, temperature 1, top-p 0.9; sees height, words"
    kept = [count for count in tokens_per_step("cosine", 8, 16) if count]
    assert lines[2] == f"   tokens kept per step: {' '.join(map(str, kept))} (1 empty step skipped)"
    assert lines[3:5] == ["   branch 1, without words: share 1 to -2", "   branch 2, sees everything: share 0 to 3"]
    assert lines[6].startswith("2. pose: halton, 3 steps, temperature 1, top-p 0.9; sees colour, height, words")
    assert lines[-1].startswith("total: ")
    assert lines[-1].endswith("FLOPs; nothing was run")
    assert repr(out.explanation).startswith("<Explanation: 2 stages, ")


def test_the_flops_are_about_those_that_torch_counts(toys, monkeypatch):
    special = toys.sampler.sequences["words"]  # so that no text ends early
    monkeypatch.setitem(toys.sampler.sequences, "words", replace(special, stop=frozenset({10**6})))
    options = {"n_samples": 2, "guidance": -1.0, "steps": 2, "guide": Guide(toys, 0.5)}
    told = toys.generate(COLOUR, ["height", "words"], explain=True, **options).explanation
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        toys.generate(COLOUR, ["height", "words"], **options)
    assert told.flops == pytest.approx(counter.get_total_flops(), rel=0.1)


STAGES = [Stage("height", steps=4), Stage("pose", steps=2, temperature=1.0)]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"n_samples": 3, "guidance": 2.0},
        {"n_samples": 2, "scheme": "random_order", "steps": 5},
        {"scheme": "halton", "steps": 3, "guidance": {"words": 2.0}},
        {"guidance": [0.0, 4.0], "steps": 6},
        {"n_samples": 3, "plan": STAGES},
        {"region": (0, 0, 0.5, 0.5), "n_samples": 2, "plan": STAGES},
    ],
)
def test_rows_are_counted_as_the_encoder_runs_them(toys, monkeypatch, options):
    options, region = dict(options), options.get("region")
    condition = Condition(picture(), weight=3, region=options.pop("region")) if region else picture()
    inputs = {"colour": condition, "words": "abc"}
    told = toys.generate(inputs, ["height", "pose"], explain=True, **options).explanation
    rows, encode = [], toys.network.encode

    def spy(tokens, continuous):
        rows.extend((tokens.mod >= 0).sum(1).clamp(min=1).tolist())  # one without a token takes a slot
        return encode(tokens, continuous)

    monkeypatch.setattr(toys.network, "encode", spy)
    toys.generate(inputs, ["height", "pose"], **options)
    passes = [each for stage in told.stages for each in stage.passes]
    assert sum(each.rows for each in passes) == len(rows)
    assert sum(each.encoder_tokens for each in passes) == sum(rows)
    assert [stage.stage.target for stage in told.stages] == ["height", "pose"]
    assert ("branch 1, without colour@pixels (region 1): share -2" in str(told)) == bool(region)


def test_a_text_and_an_adaptive_order_are_told_as_the_most_that_may_run(toys):
    told = toys.generate(COLOUR, ["height", "words"], scheme="entropy", order={"bound": 2.0}, explain=True).explanation
    assert "height: entropy, bound 2, 8 steps" in str(told)
    assert "words: left to right, at most 10 tokens, temperature 0.7, top-p 0.9" in str(told)
    assert "total: at most " in str(told)
    assert all(stage.at_most for stage in told.stages)


def test_what_cannot_be_is_said_when_it_is_explained(toys):
    with pytest.raises(ValueError, match="scheme 'fast': "):
        toys.generate(COLOUR, "height", scheme="fast", explain=True)

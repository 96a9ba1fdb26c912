"""A weaker model guides: the logits are led away from its own, whatever its vocabulary holds beside."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fourm_engine.generate.cached import CachedDecoder
from fourm_engine.generate.guidance import Guide, single_branch
from fourm_engine.generate.plan import Stage
from fourm_engine.modalities import Modalities
from fourm_engine.model import FourM
from fourm_plugins.manager import PluginManager
from tests.generate.toys import network, picture, tokenizers

DRAWN = {"temperature": 1.0, "steps": 4, "seed": 3}


def weaker(leave_out: str = "pose", **settings) -> FourM:
    """Another network over fewer modalities, so that its rows lie elsewhere."""
    manager = PluginManager()
    names = [name for name in ("colour", "height", "pose", "words") if name != leave_out]
    found = [manager.modality(name, **settings.get(name, {})) for name in names]
    found.append(manager.modality("colour@pixels", plugin="colour", pixels=True))
    made = Modalities(found, {m.name: manager.find("modality", m.name.partition("@")[0]) for m in found})
    net, vocabulary = network(made, seed=2)
    return FourM(net, made, tokenizers(made), vocabulary)


def ids(model, target, given, **options):
    return model.generate(given, target, **options)[target].tokens.tolist()


def test_one_step_is_that_of_the_logits_led_away_from_those_of_the_guide(toys):
    guide, given = weaker(), {"words": "abc"}
    shown = toys.reader.read(given, ())[0]
    stage = Stage("height", scheme="parallel", readout="expected")

    def log_p(sampler, guide=None):
        return torch.from_numpy(sampler.run([shown], [stage], [0], guide)[0]["height"].probabilities).log()

    model, other = log_p(toys.sampler), log_p(guide.sampler)
    expected = (other + 3 * (model - other)).softmax(-1)
    torch.testing.assert_close(log_p(toys.sampler, Guide(guide, 3.0)).exp(), expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(expected, model.exp(), atol=0.05)


def test_the_next_word_is_that_of_the_logits_led_away_from_those_of_the_guide(toys):
    guide, shown = weaker(), toys.reader.read({"colour": picture()}, ())[0]
    stage = Stage("words", scheme="autoregressive", max_tokens=2)
    start = torch.tensor([toys.sampler.sequences["words"].start])
    with torch.inference_mode():
        plan = single_branch(stage, {})
        sides = [CachedDecoder(m.network, m.vocabulary, plan.rows([shown]), plan, "words", 2) for m in (toys, guide)]
        first = [side.logits(start, 0) for side in sides]
        first = (first[1] + 2.5 * (first[0] - first[1])).argmax(-1)
        second = [side.logits(first, 1) for side in sides]
        second = (second[1] + 2.5 * (second[0] - second[1])).argmax(-1)
        got = toys.sampler.autoregressive(
            plan.rows([shown]),
            plan,
            "words",
            2,
            stop=(),
            uniform_BL=torch.zeros(1, 2),
            guided=(
                Guide(guide, 2.5),
                CachedDecoder(guide.network, guide.vocabulary, plan.rows([shown]), plan, "words", 2),
            ),
        )
    assert got[0].tolist() == [[int(first), int(second)]]


@pytest.mark.parametrize(("target", "options"), [("height", {"scheme": "halton"}), ("height", {}), ("words", {})])
def test_by_nought_the_guide_decides_by_more_the_model_and_a_schedule_goes_between(toys, target, options):
    guide, given = weaker(), {"colour": picture()}
    options = {**DRAWN, **options} if target == "height" else {"temperature": 1.0, "seed": 3}
    alone = ids(guide, target, given, **options)
    assert ids(toys, target, given, guide=Guide(guide, 0.0), **options) == alone
    guided = ids(toys, target, given, guide=Guide(guide, 4.0), **options)
    assert guided != alone
    assert ids(toys, target, given, guide=Guide(toys, 4.0), **options) == ids(toys, target, given, **options)
    assert ids(toys, target, given, guide=Guide(guide, [4.0, 4.0]), **options) == guided
    assert ids(toys, target, given, guide=Guide(guide, [0.0, 4.0]), **options) != guided


def test_conditions_are_weighed_before_the_guide_is_led_away_from(toys):
    guide, given = weaker(), {"words": "abc"}
    shown = toys.reader.read(given, ())[0]

    def log_p(sampler, guide=None, **weights):
        stage = Stage("height", scheme="parallel", readout="expected", **weights)
        return torch.from_numpy(sampler.run([shown], [stage], [0], guide)[0]["height"].probabilities).log()

    model, other = log_p(toys.sampler, guidance=2.0), log_p(guide.sampler)
    got = log_p(toys.sampler, Guide(guide, 2.0), guidance=2.0).exp()
    torch.testing.assert_close(got, (other + 2 * (model - other)).softmax(-1), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("make", "weight", "message"),
    [
        (lambda: weaker("words"), 2.0, "guide: it has no modality 'words'"),
        (
            lambda: weaker(height={"codes": 4}),
            2.0,
            r"guide: its tokenizer of 'height' is another \(codes is 4 there, 8 here",
        ),
        (
            lambda: weaker(words={"max_tokens": 12}),
            2.0,
            r"guide: its 'words' has other settings \(max_tokens is 12 there, \d+ here",
        ),
        (weaker, 1.0, "guide: a weight of 1 has no effect"),
        (weaker, float("nan"), "guide: the weight is a finite number"),
        (weaker, 10**400, "guide: the weight is a finite number"),
    ],
)
def test_a_guide_that_does_not_fit_is_told_before_anything_runs(toys, monkeypatch, make, weight, message):
    guide = make()
    monkeypatch.setattr(toys.sampler, "run", lambda *_: pytest.fail("generated"))
    with pytest.raises(ValueError, match=message):
        toys.generate({"words": "abc"}, "height", guide=Guide(guide, weight))


def test_it_is_explained_with_its_weight_and_its_work(toys, capsys):
    guide, given = weaker(), {"colour": picture()}
    plain, more = (toys.generate(given, "height", explain=True, steps=4, **o) for o in ({}, {"guide": Guide(guide, 2)}))
    assert "guide of 0.0" in capsys.readouterr().out
    assert np.isclose(more.explanation.flops / plain.explanation.flops, 2, atol=0.1)
    once = toys.generate(given, "height", explain=True, steps=4, guide=Guide(guide, [2, 1])).explanation
    assert plain.explanation.flops < once.flops < more.explanation.flops  # by 1, it does not run

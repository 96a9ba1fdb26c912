"""Weights of regions of a condition, and of conditions by themselves."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from fourm_engine.generate.input_types import Condition, Ids
from fourm_engine.generate.masks import read_mask
from fourm_engine.generate.plan import Stage
from fourm_engine.generate.sample import Region, Sample
from tests.generate.test_sampler import grid_logits, sample, sampler  # noqa: F401 (a fixture)
from tests.generate.toys import picture

TARGETS = ["height"]


def ids(model, condition, **options) -> list[int]:
    return model.generate({"colour": condition}, TARGETS, temperature=0, steps=4, **options)["height"].tokens.tolist()


def test_a_mask_that_is_no_picture_is_named_with_its_file(tmp_path):
    path = tmp_path / "mask.png"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=rf"^mask '{path}': not a PNG, JPEG or WebP picture"):
        read_mask(path)


def test_a_region_is_weighed_against_the_same_without_it(sampler):  # noqa: F811
    s = sample(names=("colour", "words"))
    region, pos = Region("colour", np.array([0, 1, 4, 5]), -2.0), np.isin(np.arange(16), [0, 1, 4, 5])
    without = {**s.shown, "colour": s.shown["colour"].at(~pos)}
    u, c = grid_logits(sampler, without), grid_logits(sampler, s.shown)
    weighed = replace(s, regions={"colour (region 1)": region})
    filled = sampler.run([weighed], [Stage("height", scheme="parallel", readout="expected")], [0])[0]["height"]
    assert np.allclose(filled.probabilities, (u - 2 * (c - u)).softmax(-1).numpy(), atol=1e-5)


def test_a_region_of_weight_one_is_plain_and_one_of_nought_is_hidden(toys):
    box = (0, 0, 0.5, 0.75)
    assert ids(toys, Condition(picture(), weight=1, region=box)) == ids(toys, picture())
    keep = np.ones((4, 4), bool)
    keep[:3, :2] = False
    hidden = ids(toys, Condition(picture(), weight=0, region=box))
    assert hidden == ids(toys, Condition(picture(), keep=keep))
    assert hidden != ids(toys, picture())
    assert ids(toys, Condition(picture(), weight=4, region=box)) != ids(
        toys, Condition(picture(), weight=-4, region=box)
    )


def test_a_region_of_all_is_a_weight_of_the_whole(toys):
    assert ids(toys, Condition(picture(), weight=3, region=(0, 0, 1, 1))) == ids(toys, Condition(picture(), weight=3))


def test_a_box_a_mask_of_pixels_one_of_tokens_a_picture_and_ids_mean_the_same_region(toys):
    from PIL import Image

    pixels, tokens = np.zeros((8, 8), bool), np.zeros((4, 4), bool)
    pixels[2:4, 2:8], tokens[1, 1:] = True, True
    regions = [(0.25, 0.25, 1.0, 0.5), pixels, tokens, Image.fromarray(pixels), pixels.astype(np.uint8) * 255]
    results = [ids(toys, Condition(picture(), weight=5, region=region)) for region in regions]
    assert all(result == results[0] for result in results)
    given = Ids(np.arange(16))
    of_ids = [ids(toys, Condition(given, weight=5, region=region)) for region in (regions[0], tokens)]
    assert of_ids[0] == of_ids[1]


def test_each_of_several_regions_is_weighed_against_none_of_them(sampler):  # noqa: F811
    s, n = sample(names=("colour", "words")), np.arange(16)
    left, right = np.array([0, 4]), np.array([3, 7, 11])
    regions = {"colour (region 1)": Region("colour", left, 3.0), "colour (region 2)": Region("colour", right, -1.0)}

    def without(hidden):
        return grid_logits(sampler, {**s.shown, "colour": s.shown["colour"].at(~np.isin(n, hidden))})

    u, a, b = without([*left, *right]), without(right), without(left)
    stage = Stage("height", scheme="parallel", readout="expected")
    filled = sampler.run([replace(s, regions=regions)], [stage], [0])[0]["height"]
    assert np.allclose(filled.probabilities, (u + 3 * (a - u) - (b - u)).softmax(-1).numpy(), atol=1e-5)


def test_a_sample_does_not_depend_on_what_others_of_its_batch_weigh(toys):
    inputs = [
        {"colour": Condition(picture(0), weight=3.0), "words": "abc"},
        {"colour": picture(1), "words": Condition("bcd", weight=-1.0)},
        {"colour": Condition(picture(2), weight=2.0, region=(0, 0, 0.5, 0.5)), "words": "abc"},
        {"colour": picture(3), "words": "abc"},
    ]
    options = {"temperature": 1.0, "steps": 4}
    together = toys.generate_batch(inputs, TARGETS, seeds=range(4), **options)
    alone = [toys.generate(one, TARGETS, seed=i, **options) for i, one in enumerate(inputs)]
    assert [r["height"].tokens.tolist() for r in together] == [r["height"].tokens.tolist() for r in alone]


def test_a_negative_weight_lowers_the_likelihood_of_a_condition_and_a_large_one_raises_it(sampler):  # noqa: F811
    """Of drawn tokens x: log p(x | condition) - log p(x), which is log p(condition | x) up to a constant."""
    s = sample(names=("colour",))
    u, c = grid_logits(sampler, {}).log_softmax(-1), grid_logits(sampler, s.shown).log_softmax(-1)

    def likelihood(weight: float) -> float:
        stage = Stage("height", scheme="parallel", temperature=1.0, guidance=weight)
        drawn = [f["height"].ids for f in sampler.run([s] * 32, [stage], range(32))]
        return float(np.mean([(c - u).gather(1, torch.from_numpy(x)[:, None]).sum() for x in drawn]))

    assert likelihood(-2.0) < likelihood(0.0) < likelihood(1.0) < likelihood(4.0)


@pytest.mark.parametrize(
    ("value", "settings", "message"),
    [
        (picture(), {"region": (0, 0, 1, 1)}, "the region of a Condition has no effect without a weight"),
        (
            picture(),
            {"weight": [2.0], "region": [(0, 0, 1, 1), (0, 0, 1, 1)]},
            "a Condition of 2 regions needs as many",
        ),
        (picture(), {"weight": 2.0, "region": [(0, 0, 1, 1)]}, "a Condition of 1 regions needs as many"),
        (picture(), {"weight": 2.0, "region": (0.5, 0, 0.2, 1)}, "'colour': region [0.5, 0, 0.2, 1]: a box is"),
        (picture(), {"weight": 2.0, "region": (0, 0, 7, 7)}, "'colour': region [0, 0, 7, 7]: a box is"),
        (picture(), {"weight": 2.0, "region": np.zeros((8, 8), bool)}, "'colour': region marks nothing"),
        (picture(), {"weight": 2.0, "region": np.ones((3, 3), bool)}, "'colour': region has shape (3, 3)"),
        (picture(), {"weight": 2.0, "region": "nowhere.png"}, "'colour': region: "),
        (
            picture(0, 8, 24),
            {"weight": 2.0, "region": (0, 0, 0.2, 1)},
            "'colour': region lies outside what the model sees",
        ),
        (
            picture(),
            {"weight": [2.0, 3.0], "region": [(0, 0, 0.5, 1), (0.4, 0, 1, 1)]},
            "'colour': region 2 shares tokens with another region",
        ),
    ],
)
def test_a_region_that_cannot_be_is_refused_in_one_line(toys, value, settings, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        toys.generate({"colour": Condition(value, **settings)}, TARGETS)
    assert "\n" not in str(caught.value)


def test_a_region_is_of_a_grid_and_counts_as_a_weight(toys):
    with pytest.raises(ValueError, match="'words' is a sequence; only grids have regions"):
        toys.generate({"words": Condition("abc", weight=2, region=(0, 0, 1, 1))}, TARGETS)
    with pytest.raises(ValueError, match="guidance is given both with colour and in the plan"):
        toys.generate({"colour": Condition(picture(), weight=2, region=(0, 0, 1, 0.5))}, TARGETS, guidance=2.0)
    assert Sample().without(frozenset({"x"})) == {}

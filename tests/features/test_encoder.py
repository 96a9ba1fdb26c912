"""The encoder at work: features of any inputs, whatever else is in the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import fourm_engine as fm
from fourm_engine.cli.embed import embed, search
from fourm_engine.convert.absent import absent_tokenizers
from fourm_engine.features.encoder import Encoder
from fourm_engine.features.index import Index
from fourm_engine.features.resizing import resized
from fourm_engine.generate.input_types import Condition, Ids
from fourm_engine.modalities import Modalities
from fourm_engine.model import FourM
from fourm_plugins.manager import PluginManager
from tests.generate.toys import SIDE, heights, make_model, network, picture

SAMPLES = [
    {"colour": picture(1), "words": "abc"},
    {"words": "a"},
    {},
    {"colour": None, "height": heights(2)},
    {"height": heights(3), "colour": picture(4), "words": "a longer text"},
]


@pytest.fixture
def encoder(model):
    return Encoder(model)


def test_an_encoder_is_one_line_to_print(encoder):
    assert repr(encoder).startswith(
        f"<Encoder: {len(encoder.network.encoder)} blocks, {encoder.num_features} features, on"
    )
    assert "\n" not in repr(encoder)


@pytest.mark.parametrize(("dtype", "of_tokens", "of_samples"), [("float64", 1e-12, 1e-12), ("float32", 1e-5, 1e-6)])
def test_features_of_a_sample_do_not_depend_on_its_batch(encoder, dtype, of_tokens, of_samples):
    encoder.to(getattr(torch, dtype))
    together = encoder.forward_features(SAMPLES)
    pooled = encoder(SAMPLES)
    assert pooled.shape == (5, encoder.num_features)
    for i, sample in enumerate(SAMPLES):
        alone = encoder.forward_features([sample])
        assert int(together.valid[i].sum()) == int(alone.valid.sum())
        near = {"atol": of_tokens, "rtol": 0}
        torch.testing.assert_close(together.values[i, together.valid[i]], alone.values[0, alone.valid[0]], **near)
        torch.testing.assert_close(pooled[i], alone.pooled()[0], atol=of_samples, rtol=0)


def test_pooled_is_the_mean_over_the_tokens_that_are_there_and_0_without_any(encoder):
    features = encoder.forward_features(SAMPLES)
    assert features.valid.sum(1).tolist() == [20, 2, 0, 16, 32 + 10]
    torch.testing.assert_close(features.pooled()[0], features.values[0, :20].mean(0))
    assert not encoder(SAMPLES)[2].any()


def test_every_token_has_its_modality_and_position(encoder):
    features = encoder.forward_features(SAMPLES[:2])
    names = [encoder.vocabulary.entries[index].name for index in features.modality[0].tolist()]
    assert names == ["colour@pixels"] * 16 + ["words"] * 4
    assert features.position[0].tolist() == [*range(16), *range(4)]
    assert features.modality[1, 2:].tolist() == [-1] * 18


def test_a_grid_comes_as_a_map_with_zeros_where_it_is_missing(encoder):
    keep = np.arange(16).reshape(4, 4) % 2 == 0
    features = encoder.forward_features([SAMPLES[0], {}, {"colour": Condition(picture(1), keep=keep)}])
    map_ = features.grid("colour")
    assert map_.shape == (3, encoder.num_features, 4, 4)
    torch.testing.assert_close(map_[0, :, 1, 2], features.values[0, 6])
    assert not map_[1].any()
    assert map_[2].any(0).numpy().tolist() == keep.tolist()
    with pytest.raises(ValueError, match="'words' is a sequence, not a grid"):
        features.grid("words")


def test_values_and_token_ids_of_a_modality_are_one_map(encoder):
    features = encoder.forward_features([{"colour": picture(1)}, {"colour": Ids([3] * 16)}])
    assert features.grid("colour").any(1).all()


def test_gradients_reach_all_weights_and_nothing_of_the_decoder_is_among_them(model, encoder):
    names = {name for name, _ in encoder.named_parameters()}
    assert not [name for name in names if "decoder" in name or "head" in name]
    encoder([{**SAMPLES[4], "pose": Ids([1] * 3)}]).square().sum().backward()
    assert {name for name, p in encoder.named_parameters() if p.grad is None} == set()
    assert model.generate({"words": "a"}, "height")["height"].value.shape == (8, 8)  # the model goes on


def test_inputs_limit_what_a_sample_may_have(model):
    encoder = Encoder(model, ["colour"])
    assert encoder([{"colour": picture()}, {"colour@pixels": picture()}]).shape[0] == 2
    for sample, message in (
        ({"words": "a"}, "'words' is not among the inputs of this encoder: colour"),
        ({"wrods": "a"}, "no modality 'wrods'"),
        ({"colour": np.zeros(3)}, "input 'colour'"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            encoder([sample])
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="no modality 'wrods'"):
        Encoder(model, ["wrods"])
    for wrong in ({"colour": picture()}, []):
        with pytest.raises(ValueError, match=r"^inputs: "):
            encoder(wrong)


def test_a_stored_model_gives_the_features_it_gave_before(model, encoder, tmp_path):
    model.save_pretrained(tmp_path / "run/model")
    loaded = fm.encoder(tmp_path / "run", inputs=["colour", "words"], device="cpu")
    assert not loaded.training
    assert loaded.fingerprint() == encoder.fingerprint()
    torch.testing.assert_close(loaded(SAMPLES[:3]), encoder(SAMPLES[:3]))
    with torch.no_grad():
        next(loaded.parameters()).add_(1)
    assert loaded.fingerprint() != encoder.fingerprint()
    with pytest.raises(ValueError, match="no such folder"):
        fm.encoder(tmp_path / "nowhere")


def test_a_pyramid_has_a_map_at_each_reduction_that_feature_info_tells(encoder):
    samples = [{"colour": picture(1), "words": "abc"}, {"words": "a"}]
    levels = encoder.pyramid(samples, "colour")
    info = Encoder(make_model(), ["colour"]).feature_info
    assert [level.shape for level in levels] == [(2, one["num_chs"], *[SIDE / one["reduction"]] * 2) for one in info]
    assert [one["module"] for one in info] == [f"network.encoder.{i}" for i in (0, 0, 1, 1)]
    first, last = encoder.forward_intermediates(samples, [0, -1])
    torch.testing.assert_close(last.values, encoder.forward_features(samples).values)
    assert not torch.allclose(first.values, last.values)
    # What a level says of a cell is what the encoder said of the token there.
    torch.testing.assert_close(levels[2], last.grid("colour"))
    torch.testing.assert_close(levels[3][0, :, 1, 0], last.grid("colour")[0, :, 2:, :2].mean((1, 2)))
    torch.testing.assert_close(
        levels[0], torch.nn.functional.interpolate(first.grid("colour"), scale_factor=4, mode="bilinear")
    )
    assert all(level[0].any() and not level[1].any() for level in levels)
    with pytest.raises(ValueError, match="no grid among the inputs words"):
        _ = Encoder(make_model(), "words").feature_info
    with pytest.raises(ValueError, match="no block 2; the encoder has 2"):
        encoder.forward_intermediates(samples, [2])


@pytest.fixture
def pictures(tmp_path):
    """A run whose model takes pictures of 32 pixels and texts, of installed plugins."""
    manager = PluginManager()
    found = [manager.modality("rgb@pixels", plugin="rgb@pixels", image_size=32, patch_size=8)]
    found.append(manager.modality("depth", image_size=32, patch_size=8))
    plugins = {m.name: manager.find("modality", m.name) for m in found}
    made = Modalities(found, plugins)
    net, vocabulary = network(made)
    return FourM(net, made, {"depth": absent_tokenizers([made["depth"].spec])}, vocabulary)


def test_a_larger_picture_has_more_tokens_at_interpolated_positions(pictures):
    """A picture that is the same at both sizes but for its scale has nearly the features that it had."""
    flat = np.full((64, 64, 3), 90, np.uint8)
    before = Encoder(pictures, ["rgb"]).forward_features([{"rgb": flat}]).grid("rgb")
    large = Encoder(resized(pictures, ["rgb"], 64), ["rgb"])
    after = large.forward_features([{"rgb": flat}]).grid("rgb")
    assert (before.shape[2:], after.shape[2:]) == ((4, 4), (8, 8))
    fitted = torch.nn.functional.interpolate(before, scale_factor=2, mode="bilinear")
    inside = (slice(None), slice(None), slice(2, -2), slice(2, -2))
    assert (after[inside] - fitted[inside]).abs().mean() < 0.15 * fitted.std()
    wide = Encoder(resized(pictures, ["rgb"], {"rgb": (32, 64)}), ["rgb"])
    assert [level.shape[2:] for level in wide.pyramid([{"rgb": flat[:32]}], "rgb")] == [
        (16, 32),
        (8, 16),
        (4, 8),
        (2, 4),
    ]
    prints = {e.fingerprint() for e in (large, wide, Encoder(pictures), Encoder(resized(pictures, None, 64)))}
    assert len(prints) == 4


@pytest.mark.parametrize(
    ("inputs", "size", "message"),
    [
        (["rgb"], 36, "size of 'rgb@pixels': .*patch_size 8x8 does not divide image_size 36x36"),
        (["rgb"], {"depth": 64}, "size: 'depth' is not among the inputs: rgb"),
    ],
)
def test_a_size_that_cannot_be_is_one_line(pictures, inputs, size, message):
    with pytest.raises(ValueError, match=message) as caught:
        resized(pictures, inputs, size)
    assert "\n" not in str(caught.value)


def test_a_modality_without_sizes_refuses_one(model):
    with pytest.raises(ValueError, match="size: 'colour@pixels' has no setting image_size"):
        resized(model, ["colour"], 16)
    with pytest.raises(ValueError, match="no grid among the inputs words"):
        resized(model, ["words"], 16)


def test_an_index_of_another_size_is_searched_at_that_size(pictures, tmp_path, capsys):
    pictures.save_pretrained(tmp_path / "run/model")
    (tmp_path / "data/rgb").mkdir(parents=True)
    for i in range(3):
        (tmp_path / f"data/rgb/s{i}.png").write_bytes(
            pictures.modalities["rgb@pixels"].write(picture(i, 64, 64))["png"]
        )
    for name, size in (("small", None), ("large", ["64"])):
        embed(str(tmp_path / "run"), str(tmp_path / "data"), ["rgb"], tmp_path / name, size=size)
    small, large = Index.load(tmp_path / "small"), Index.load(tmp_path / "large")
    assert (small.size, large.size) == (None, {"rgb": (64, 64)})
    assert np.abs(small.features - large.features).max() > 1e-3
    capsys.readouterr()
    search(tmp_path / "large", str(tmp_path / "run"), [f"rgb={tmp_path}/data/rgb/s1.png"], k=1)
    assert capsys.readouterr().out == "1.0000 s1\n"

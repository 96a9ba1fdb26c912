"""The perceptual loss, with tiny vision models saved in the real format."""

import sys

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fourm_engine.fit.config import FitConfig
from fourm_engine.fit.fitting import fit_network
from fourm_engine.tokenizers.perceptual import Perceptual, PerceptualSettings
from fourm_engine.tokenizers.vqvae import VQVAETokenizer
from tests.grids import SIZE, SMALL, features, map_spec, ramps

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """A ViT of pictures of 32 pixels, with the statistics of its pictures."""
    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    )
    transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text('{"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.2, 0.25]}')
    return folder


def pictures(n=2, size=32):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_the_distance_equals_the_slow_formula(vit):
    x, y = pictures(), pictures().flip(0)
    found = Perceptual(PerceptualSettings(model=str(vit)))(x, y)
    network = transformers.AutoModel.from_pretrained(vit).eval()
    mean, deviation = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.2, 0.25])

    def layers(picture):
        unit = (picture + 1) / 2
        shown = (unit - mean[:, None, None]) / deviation[:, None, None]
        return network(pixel_values=shown, output_hidden_states=True).hidden_states

    with torch.no_grad():
        pairs = zip(layers(x), layers(y), strict=True)
        slow = [(F.normalize(a, dim=-1) - F.normalize(b, dim=-1)).square().sum(-1).mean(1) for a, b in pairs]
    assert len(slow) == 3
    torch.testing.assert_close(found, torch.stack(slow).mean(0))
    assert found.shape == (2,)


def test_it_vanishes_for_equal_pictures_alone_and_teaches_the_reconstruction(vit):
    distance = Perceptual(PerceptualSettings(model=str(vit), layers=(1, -1)))
    x, y = pictures(), pictures().flip(3)
    assert distance(y, y).abs().max() < 1e-6
    x.requires_grad_()
    before = distance(x, y).sum()
    before.backward()
    assert float(before.detach()) > 0
    with torch.no_grad():
        step = 0.5 * x.grad / x.grad.abs().max()
        assert distance(x - step, y).sum() < before


def test_other_sizes_and_colours_are_brought_to_the_models(vit):
    unit = Perceptual(PerceptualSettings(model=str(vit)))
    standard = Perceptual(PerceptualSettings(model=str(vit), black=(-2.0, -1.0, 0.0), white=(2.0, 3.0, 1.0)))
    x, y = pictures(size=20), pictures(size=20).flip(0)
    scale, shift = torch.tensor([2.0, 2.0, 0.5])[:, None, None], torch.tensor([0.0, 1.0, 0.5])[:, None, None]
    torch.testing.assert_close(standard(x * scale + shift, y * scale + shift), unit(x, y), atol=1e-5, rtol=1e-4)


def test_convolutional_models_and_the_vision_half_of_others_serve(tmp_path):
    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    conv = transformers.ConvNextConfig(hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 1, 1], image_size=32)
    clip = transformers.CLIPConfig(
        text_config=small | {"vocab_size": 20, "max_position_embeddings": 8},
        vision_config=small | {"image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    transformers.ConvNextModel(conv).save_pretrained(tmp_path / "conv")
    transformers.CLIPModel(clip).save_pretrained(tmp_path / "clip")
    for name in ("conv", "clip"):
        distance = Perceptual(PerceptualSettings(model=str(tmp_path / name)))
        assert distance(pictures(), pictures().flip(0)).min() > 0
    text = transformers.BertConfig(**small, vocab_size=20)
    transformers.BertModel(text).save_pretrained(tmp_path / "text")
    with pytest.raises(ValueError, match="a BertModel does not look at pictures"):
        Perceptual(PerceptualSettings(model=str(tmp_path / "text")))(pictures(), pictures())


def test_a_tokenizer_learns_with_it_and_is_stored_without_it(vit, tmp_path):
    settings = {**SMALL, "perceptual": {"model": str(vit), "weight": 0.5}}
    torch.manual_seed(0)
    tokenizer = VQVAETokenizer([map_spec(features())], **settings)
    assert tokenizer.counts(tokenizer.tensor(ramps(3)))["perceptual"] == 3
    assert tokenizer.weights() == {"commitment": 1.0, "mse": 1.0, "perceptual": 0.5}
    config = FitConfig(steps=8, batch_size=4, lr=3e-3, device="cpu", threads=1, log_every=1000)
    fit_network(tokenizer, ramps(20), config)
    assert not any("perceptual" in name for name in tokenizer.state())
    tokenizer.save(tmp_path)
    gone = {**settings, "perceptual": {"model": "nowhere", "weight": 0.5}}
    again = VQVAETokenizer([map_spec(features())], **gone)
    again.load(tmp_path)
    assert np.array_equal(again.encode(ramps(3)), tokenizer.encode(ramps(3)))
    assert again.decode(again.encode(ramps(1)))[0].shape == (3, SIZE, SIZE)


def test_what_cannot_be_compared_is_refused():
    wanted = {"perceptual": {"model": "nowhere/at-all"}}
    with pytest.raises(ValueError, match="pictures of three channels without gaps"):
        VQVAETokenizer([map_spec(features(1))], **SMALL, **wanted)


def test_a_model_that_is_not_there_is_named(tmp_path, vit):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"perceptual\.model '.*empty'"):
        Perceptual(PerceptualSettings(model=str(tmp_path / "empty")))(pictures(), pictures())
    with pytest.raises(ValueError, match=r"perceptual\.layers \[7\]: the model's are 0 to 2"):
        Perceptual(PerceptualSettings(model=str(vit), layers=(7,)))(pictures(), pictures())


def timm_or_skip():
    try:
        import timm
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision built for another torch
        pytest.skip(f"timm cannot be imported: {error}")
    return timm


def test_a_model_of_timm_in_a_folder_serves(tmp_path):
    timm = timm_or_skip()
    torch.manual_seed(0)
    network = timm.create_model("resnet10t", pretrained=False)
    timm.models.save_for_hf(network, tmp_path, safe_serialization=True)
    distance = Perceptual(PerceptualSettings(model=str(tmp_path), library="timm"))
    x = pictures(size=64)
    assert distance(x, x).abs().max() < 1e-6
    assert distance(x, x.flip(0)).min() > 0


def test_a_library_that_is_missing_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match="the perceptual loss needs `pip install timm`"):
        Perceptual(PerceptualSettings(model="resnet10t", library="timm"))(pictures(), pictures())

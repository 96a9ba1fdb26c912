"""Published tokenizers: strict when read, the same bits when written back, at other sizes than the file's, for the
modality that they are meant for."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import fourm_engine as fm
from fourm_engine.convert import published
from fourm_engine.convert.tokenizer_format import CODECS, UNETS
from fourm_engine.convert.tokenizers import load_published_tokenizer, save_published_tokenizer
from fourm_engine.nn.embeddings import sine_cosine_2d
from fourm_engine.tokenizers.divae import DiVAETokenizer
from fourm_engine.tokenizers.store import load_tokenizer, save_tokenizer
from fourm_engine.tokenizers.vqvae import VQVAETokenizer
from fourm_plugins.manager import PluginManager
from tests.running import fourm, refused

ARGUMENTS = {
    "quant_type": "lucid",
    "latent_dim": 4,
    "norm_codes": False,
    "post_mlp": True,
    "image_size": 32,
    "n_channels": 1,
    "enc_type": "vit_s_enc",
    "dec_type": "vit_s_dec",
    "patch_size": 16,
    "codebook_size": 20,
}


UNET = {"patch": 4, "width": 16, "multipliers": (1, 2), "blocks": 1, "attention": (2,), "groups": 8}
DIFFUSION = {
    "dec_type": "unet_patched",
    "num_train_timesteps": 50,
    "clip_sample": True,
    "thresholding": False,
    "zero_terminal_snr": True,
    "cls_free_guidance_dropout": 0.1,
    "beta_schedule": "shifted_cosine:0.5",
    "prediction_type": "v_prediction",
}


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """A tiny file in the published format."""
    monkeypatch.setitem(CODECS, "vit_s", {"width": 16, "blocks": 1, "heads": 2})
    monkeypatch.setitem(UNETS, "unet_patched", UNET)
    return write(tmp_path / "model.safetensors")


def depth(**settings):
    return PluginManager().modality("depth", image_size=32, patch_size=16, codebook_size=20, **settings)


def write_divae(path):
    """A tiny file with a diffusion decoder, its arguments as the recorded ones."""
    torch.manual_seed(0)
    encoder = {**CODECS["vit_s"], "post_mlp": True}
    settings = {"encoder": encoder, "latent_dim": 4, "normalise_codes": False, "decoder": UNET}
    tokenizer = DiVAETokenizer([depth().spec], **settings)
    state = {}
    for key, value in tokenizer.state().items():
        shape = tuple(value.shape)
        if key == "encoder.proj.weight":
            shape = (16, 1, 16, 16)
        if key == "quant_proj.weight":
            shape = (*shape, 1, 1)
        state[key.replace("quantiser.codes", "quantize._codebook.embed")] = 0.3 * torch.randn(shape)
    state["encoder.pos_emb"] = sine_cosine_2d(2, 2, 16).T.reshape(1, 16, 2, 2).contiguous()
    state["quantize._codebook.initted"] = torch.ones(1)
    state["quantize._codebook.cluster_size"] = torch.rand(20)
    save_file(state, path, metadata={key: str(value) for key, value in (ARGUMENTS | DIFFUSION).items()})
    return path


def write(path, edit=lambda state: None, **arguments):
    torch.manual_seed(0)
    codec = {"mlp.fc1": (64, 16), "mlp.fc2": (16, 64), "attn.qkv": (48, 16), "attn.proj": (16, 16)}
    shapes = {"quantize._codebook.embed": (20, 4), "quantize._codebook.initted": (1,)}
    linear = {"quant_proj": (4, 16, 1, 1), "post_quant_proj": (16, 4, 1, 1)}
    linear |= {"encoder.proj": (16, 1, 16, 16), "decoder.out_proj": (256, 16)}
    for side in ("encoder", "decoder"):
        linear |= {f"{side}.blocks.0.{name}": shape for name, shape in codec.items()}
        linear |= {f"{side}.post_mlp.fc1": (64, 16), f"{side}.post_mlp.fc2": (16, 64)}
        for norm in ("blocks.0.norm1", "blocks.0.norm2", "norm_mlp"):
            shapes |= {f"{side}.{norm}.weight": (16,), f"{side}.{norm}.bias": (16,)}
    for name, shape in linear.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    state = {name: 0.3 * torch.randn(shape) for name, shape in shapes.items()}
    for side in ("encoder", "decoder"):
        state[f"{side}.pos_emb"] = sine_cosine_2d(2, 2, 16).T.reshape(1, 16, 2, 2).contiguous()
    edit(state)
    save_file(state, path, metadata={key: str(value) for key, value in (ARGUMENTS | arguments).items()})
    return path


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda s: s.pop("quant_proj.bias"), r"quant_proj\.bias is missing"),
        (lambda s: s.pop("quantize._codebook.embed"), r"quantize\._codebook\.embed is missing"),
        (lambda s: s.pop("decoder.pos_emb"), r"decoder\.pos_emb is missing"),
        (lambda s: s.update(odd=torch.zeros(1)), "odd is unknown"),
        (lambda s: s.update({"decoder.out_proj.bias": torch.zeros(3)}), r"decoder\.out_proj\.bias has shape \(3,\)"),
        (lambda s: s["encoder.pos_emb"].add_(1), r"encoder\.pos_emb does not hold sine-cosine"),
    ],
)
def test_a_tensor_that_is_missing_unknown_or_wrong_is_named(checkpoint, edit, message):
    with pytest.raises(ValueError, match=message):
        load_published_tokenizer(write(checkpoint, edit))


def test_a_decoder_and_an_argument_that_are_not_there_are_named(checkpoint):
    with pytest.raises(ValueError, match="dec_type='unet_huge' is not supported; unet_patched are"):
        load_published_tokenizer(write(checkpoint, dec_type="unet_huge"))
    with pytest.raises(ValueError, match="argument 'prediction_type' is missing"):
        load_published_tokenizer(write(checkpoint, dec_type="unet_patched"))


def test_a_file_that_claims_more_than_it_holds_takes_no_memory(checkpoint, monkeypatch):
    def refuse(self):
        raise AssertionError("built before its weights were compared")

    built = VQVAETokenizer.make_network
    monkeypatch.setattr(
        VQVAETokenizer,
        "make_network",
        lambda self: built(self) if torch.empty(0).device.type == "meta" else refuse(self),
    )
    with pytest.raises(ValueError, match=r"quantize\._codebook\.embed has shape \(20, 4\), expected \(1048576, 4\)"):
        load_published_tokenizer(write(checkpoint, codebook_size=1 << 20))
    with pytest.raises(ValueError, match=r"position"):
        load_published_tokenizer(write(checkpoint, image_size=8192, patch_size=1), image_size=32)


@pytest.mark.parametrize("made", [write, write_divae])
@pytest.mark.parametrize("native", [False, True])
def test_a_round_trip_keeps_every_bit_of_a_tokenizer(checkpoint, tmp_path, made, native):
    def edit(state):
        state["quantize._codebook.cluster_size"] = torch.rand(20)
        state["quantize._codebook.embed"] = state["quantize._codebook.embed"][None]

    before = made(checkpoint, edit) if made is write else made(checkpoint)
    tokenizer = fm.load_tokenizer(before)
    if native:
        save_tokenizer(tokenizer, tmp_path / "native")
        tokenizer = fm.load_tokenizer(tmp_path / "native")
    again = tmp_path / "again" / "model.safetensors"
    save_published_tokenizer(tokenizer, again)
    old, new = load_file(before), load_file(again)
    assert old.keys() == new.keys()
    assert all(old[key].shape == new[key].shape and torch.equal(old[key], new[key]) for key in old)
    assert published.read_arguments(again)[0] == published.read_arguments(before)[0]
    map_ = [np.random.default_rng(0).standard_normal((1, 32, 32), dtype=np.float32)]
    assert np.array_equal(fm.load_tokenizer(again.parent).encode(map_), fm.load_tokenizer(before).encode(map_))


@pytest.mark.parametrize("kind", ["vqvae", "divae"])
def test_a_tokenizer_of_ours_is_written_where_the_format_can_hold_it(checkpoint, tmp_path, kind):
    torch.manual_seed(0)
    encoder = {**CODECS["vit_s"], "post_mlp": False}
    settings = {"encoder": encoder, "decoder": encoder, "latent_dim": 4}
    cls = VQVAETokenizer
    if kind == "divae":
        cls, settings = (
            DiVAETokenizer,
            settings | {"decoder": UNET, "diffusion": {"timesteps": 40, "schedule": "linear"}},
        )
    tokenizer = cls([depth().spec], **settings)
    tokenizer.network.quantiser.codes.normal_()
    save_published_tokenizer(tokenizer, tmp_path / "out" / "model.safetensors")
    again = fm.load_tokenizer(tmp_path / "out", depth().spec)
    assert again.kind == kind
    maps = list(np.random.default_rng(0).standard_normal((2, 1, 32, 32), dtype=np.float32))
    ids = tokenizer.encode(maps)
    assert np.array_equal(ids, again.encode(maps))
    np.testing.assert_array_equal(tokenizer.decode(ids), again.decode(ids))


def test_a_tokenizer_that_the_format_cannot_hold_is_refused(checkpoint, tmp_path):
    small = VQVAETokenizer([depth().spec], encoder={"width": 16, "blocks": 0}, decoder={"width": 16, "blocks": 1})
    with pytest.raises(ValueError, match=r"no encoder of the published format has .*'blocks': 0"):
        save_published_tokenizer(small, tmp_path / "x.safetensors")
    codec = {**CODECS["vit_s"], "post_mlp": True}
    semseg = PluginManager().modality("semseg", image_size=32, patch_size=16, num_classes=5)
    learned = VQVAETokenizer([semseg.spec], encoder=codec, decoder=codec)
    with pytest.raises(ValueError, match="pixels without a class"):
        save_published_tokenizer(learned, tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()


def test_the_command_converts_tokenizers_both_ways(checkpoint, tmp_path):
    fourm("convert", checkpoint, tmp_path / "native", "--to", "native", "--modality", "depth")
    assert json.loads((tmp_path / "native" / "tokenizer.json").read_text())["specs"][0]["name"] == "depth"
    fourm("convert", tmp_path / "native", tmp_path / "back", "--to", "published")
    before, after = load_file(checkpoint), load_file(tmp_path / "back" / "model.safetensors")
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert "--domain" in refused("convert", checkpoint, tmp_path / "x", "--to", "native", "--domain", "depth")


def test_codes_are_compared_as_the_file_says_and_saving_keeps_the_ids(checkpoint, tmp_path):
    tokenizer = load_published_tokenizer(checkpoint)
    assert not tokenizer.network.quantiser.normalise
    assert torch.equal(tokenizer.network.quantiser.codes, load_file(checkpoint)["quantize._codebook.embed"])
    pictures = list(np.random.default_rng(0).standard_normal((3, 1, 32, 32), dtype=np.float32))
    save_tokenizer(tokenizer, tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved", [tokenizer.spec], PluginManager())
    assert np.array_equal(tokenizer.encode(pictures), again.encode(pictures))


def test_a_larger_picture_has_more_tokens_and_resized_positions_also_when_saved(checkpoint, tmp_path):
    tokenizer = load_published_tokenizer(checkpoint, image_size=64)
    picture = [np.random.default_rng(0).standard_normal((1, 64, 64), dtype=np.float32)]
    assert tokenizer.encode(picture)[0].shape == (16,)
    # Bicubic at half-pixel centres: the mean position stays.
    small, large = load_published_tokenizer(checkpoint).network.encoder.pos_emb, tokenizer.network.encoder.pos_emb
    assert not torch.equal(large, sine_cosine_2d(4, 4, 16))
    torch.testing.assert_close(large.mean(0), small.mean(0))
    save_tokenizer(tokenizer, tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved", [tokenizer.spec], PluginManager())
    assert np.array_equal(tokenizer.encode(picture), again.encode(picture))


def test_a_file_for_another_modality_is_refused(checkpoint):
    other = PluginManager().modality("depth", image_size=32, patch_size=16, codebook_size=21)
    with pytest.raises(ValueError, match="codebook_size is 20, but 'depth' has 21"):
        load_published_tokenizer(checkpoint, other.spec)
    caption = PluginManager().modality("caption")
    with pytest.raises(ValueError, match="caption needs a WordPiece vocabulary"):
        fm.load_tokenizer(checkpoint, caption.spec)
    assert load_published_tokenizer(checkpoint, depth().spec).spec.name == "depth"

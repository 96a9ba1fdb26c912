"""Published VQ-VAEs: strict when read, at other sizes than the file's, for the modality that they are meant for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fourm_engine.convert.tokenizers import CODECS, load_vqvae
from fourm_engine.nn.embeddings import sine_cosine_2d
from fourm_engine.tokenizers.store import load_tokenizer, save_tokenizer
from fourm_plugins.manager import PluginManager

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


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """A tiny file in the published format."""
    monkeypatch.setitem(CODECS, "vit_s", {"width": 16, "blocks": 1, "heads": 2})
    return write(tmp_path / "model.safetensors")


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
        load_vqvae(write(checkpoint, edit))


def test_a_decoder_that_is_not_there_is_named(checkpoint):
    with pytest.raises(ValueError, match="dec_type='unet_patched'"):
        load_vqvae(write(checkpoint, dec_type="unet_patched"))


def test_codes_are_compared_as_the_file_says_and_saving_keeps_the_ids(checkpoint, tmp_path):
    tokenizer = load_vqvae(checkpoint)
    assert not tokenizer.network.quantiser.normalise
    assert torch.equal(tokenizer.network.quantiser.codes, load_file(checkpoint)["quantize._codebook.embed"])
    pictures = list(np.random.default_rng(0).standard_normal((3, 1, 32, 32), dtype=np.float32))
    save_tokenizer(tokenizer, tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved", [tokenizer.spec], PluginManager())
    assert np.array_equal(tokenizer.encode(pictures), again.encode(pictures))


def test_a_larger_picture_has_more_tokens_and_resized_positions_also_when_saved(checkpoint, tmp_path):
    tokenizer = load_vqvae(checkpoint, image_size=64)
    picture = [np.random.default_rng(0).standard_normal((1, 64, 64), dtype=np.float32)]
    assert tokenizer.encode(picture)[0].shape == (16,)
    # Bicubic at half-pixel centres: the mean position stays.
    small, large = load_vqvae(checkpoint).network.encoder.pos_emb, tokenizer.network.encoder.pos_emb
    assert not torch.equal(large, sine_cosine_2d(4, 4, 16))
    torch.testing.assert_close(large.mean(0), small.mean(0))
    save_tokenizer(tokenizer, tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved", [tokenizer.spec], PluginManager())
    assert np.array_equal(tokenizer.encode(picture), again.encode(picture))


def test_a_file_for_another_modality_is_refused(checkpoint):
    depth = PluginManager().modality("depth", image_size=32, patch_size=16, codebook_size=21)
    with pytest.raises(ValueError, match="codebook_size is 20, but modality 'depth' has 21"):
        load_vqvae(checkpoint, depth.spec)
    fitting = PluginManager().modality("depth", image_size=32, patch_size=16, codebook_size=20)
    assert load_vqvae(checkpoint, fitting.spec).spec.name == "depth"

"""Published tokenizers give here the ids and the reconstructions that they gave there."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

import fourm_engine as fm
from fourm_engine.tokenizers.diffusion import cumulative_alphas, sampling_timesteps
from fourm_engine.tokenizers.vqvae import VQVAETokenizer
from fourm_plugins.spec import ModalitySpec, Sequence, Text, TokenizerRecipe, TokenSpace
from tests.golden.cases import Case, cases, write_checkpoint

RECONSTRUCTION, ONE_CALL, DDIM, ALPHAS = 1e-4, 1e-4, 1e-3, 1e-6


def load(case: Case, folder: Path) -> VQVAETokenizer:
    """The tokenizer of a case, at the size of its pictures, and no file left behind: some are large."""
    x, config = case.data()["in/x"], case.config
    pixels = x.shape[-1] * (config["patch_size"] if config.get("patch_proj") is False else 1)
    checkpoint = write_checkpoint(case, folder / "model.safetensors")
    tokenizer = fm.load_tokenizer(checkpoint, image_size=pixels)
    checkpoint.unlink()
    return tokenizer


def check_ids(case: Case, tokenizer: VQVAETokenizer) -> torch.Tensor:
    """Ids as recorded; returns their latents (B, N, d)."""
    data = case.data()
    x = data["in/x"]
    ids = np.stack(tokenizer.encode(list(x if x.dtype.kind == "i" else x.astype(np.float32))))
    np.testing.assert_array_equal(ids, data["out/tokens"].reshape(ids.shape))
    latents = tokenizer.network.quantiser.lookup(torch.from_numpy(ids))
    if "out/quant" in data:
        recorded = data["out/quant"].reshape(len(ids), latents.shape[-1], -1).transpose(0, 2, 1)
        np.testing.assert_allclose(latents, recorded, rtol=0, atol=1e-6)
    return latents


@pytest.mark.parametrize("case", cases("vqvae"))
@torch.inference_mode()
def test_a_published_vqvae_gives_the_recorded_tokens_and_reconstructions(case: Case, tmp_path):
    tokenizer, data = load(case, tmp_path), case.data()
    output = tokenizer.network.reconstruct(check_ids(case, tokenizer))
    recorded = data["out/reconstruction"]
    np.testing.assert_allclose(output[:, : recorded.shape[1]], recorded, rtol=0, atol=RECONSTRUCTION)
    assert float(output.double().sum()) == pytest.approx(
        data["out/reconstruction_sum"][0], abs=RECONSTRUCTION * output.numel() ** 0.5 * 10
    )


@pytest.mark.parametrize("case", cases("divae"))
@torch.inference_mode()
def test_a_published_diffusion_decoder_gives_the_recorded_maps(case: Case, tmp_path):
    tokenizer, data = load(case, tmp_path), case.data()
    latents = check_ids(case, tokenizer)
    noise, t = torch.from_numpy(data["in/noise"].astype(np.float32)), torch.from_numpy(data["in/t"])
    once = tokenizer.network.denoise(noise, t.expand(len(noise)), latents)
    np.testing.assert_allclose(once, data["out/decoder_once"], rtol=0, atol=ONE_CALL)
    steps = case.content["ddim_steps"]
    assert sampling_timesteps(case.config["num_train_timesteps"], steps) == list(case.content["timesteps"])
    output = tokenizer.network.reconstruct(latents, noise=noise, steps=steps)
    np.testing.assert_allclose(output, data["out/ddim"], rtol=0, atol=DDIM)


@pytest.mark.parametrize("case", cases("noise_schedules"))
def test_noise_schedules_are_as_recorded(case: Case):
    for key, recorded in case.data().items():
        schedule, _, rescaled = key.partition("/zero_terminal_snr=")
        assert rescaled in ("True", "False"), key
        alphas = cumulative_alphas(schedule, len(recorded), zero_terminal_snr=rescaled == "True")
        np.testing.assert_allclose(alphas.double(), recorded, rtol=0, atol=ALPHAS, err_msg=key)


@pytest.mark.parametrize("case", cases("wordpiece_ids"))
def test_the_published_vocabulary_gives_the_recorded_ids(case: Case):
    place = os.environ.get("FOURM_WORDPIECE")
    if not place:
        pytest.skip("FOURM_WORDPIECE does not name the published vocabulary")
    spec = ModalitySpec(
        name="text",
        layout=Sequence(max_tokens=256),
        array=Text(),
        token_space=TokenSpace(name="text", size=30000, shared=True),
        tokenizer=TokenizerRecipe(kind="wordpiece"),
        source="text",
        extensions=("txt",),
    )
    tokenizer = fm.load_tokenizer(place, spec)
    for entry in case.content:
        assert tokenizer.encode([entry["text"]])[0].tolist() == entry["ids"], entry["text"]
    assert (tokenizer.end_id, tokenizer.sentinel_ids[1]) == (3, 5)

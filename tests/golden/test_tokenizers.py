"""Published tokenizers give here the ids and the reconstructions that they gave there."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from fourm_engine.convert.tokenizers import load_vqvae, load_wordpiece
from fourm_plugins.spec import ModalitySpec, Sequence, Text, TokenizerRecipe, TokenSpace
from tests.golden.cases import Case, cases, write_checkpoint

RECONSTRUCTION = 1e-4


@pytest.mark.parametrize("case", cases("vqvae"))
@torch.inference_mode()
def test_a_published_vqvae_gives_the_recorded_tokens_and_reconstructions(case: Case, tmp_path):
    data, config = case.data(), case.config
    x = data["in/x"]
    pixels = x.shape[-1] * (config["patch_size"] if config.get("patch_proj") is False else 1)
    tokenizer = load_vqvae(write_checkpoint(case, tmp_path / "model.safetensors"), image_size=pixels)
    arrays = list(x if x.dtype.kind == "i" else x.astype(np.float32))
    ids = np.stack(tokenizer.encode(arrays))
    np.testing.assert_array_equal(ids, data["out/tokens"].reshape(ids.shape))
    latents = tokenizer.network.quantiser.lookup(torch.from_numpy(ids))
    recorded = data["out/quant"].reshape(len(ids), latents.shape[-1], -1).transpose(0, 2, 1)
    np.testing.assert_allclose(latents, recorded, rtol=0, atol=1e-6)
    output = tokenizer.network.reconstruct(latents)
    recorded = data["out/reconstruction"]
    np.testing.assert_allclose(output[:, : recorded.shape[1]], recorded, rtol=0, atol=RECONSTRUCTION)
    assert float(output.double().sum()) == pytest.approx(
        data["out/reconstruction_sum"][0], abs=RECONSTRUCTION * output.numel() ** 0.5 * 10
    )


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
    tokenizer = load_wordpiece(Path(place), [spec])
    for entry in case.content:
        assert tokenizer.encode([entry["text"]])[0].tolist() == entry["ids"], entry["text"]
    assert (tokenizer.end_id, tokenizer.sentinel_ids[1]) == (3, 5)


@pytest.mark.parametrize("case", [*cases("divae"), *cases("noise_schedules")])
def test_a_published_diffusion_decoder_gives_the_recorded_pictures(case: Case):
    pytest.skip("the diffusion decoder and its noise schedules are not there yet (docs/published.md)")

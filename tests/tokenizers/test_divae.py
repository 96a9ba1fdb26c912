"""The diffusion tokenizer as its users see it: it learns, decodes as a pure function of the ids, and takes over
encoders."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fourm_engine.fit.config import FitConfig
from fourm_engine.fit.fitting import fit_network
from fourm_engine.tokenizers.divae import LOSS, DiVAETokenizer
from fourm_engine.tokenizers.store import load_tokenizer, save_tokenizer
from fourm_engine.tokenizers.vqvae import VQVAETokenizer
from tests.grids import SMALL, Host, classes, features, map_spec, ramps

UNET = {"patch": 4, "width": 32, "multipliers": (1, 2), "blocks": 1, "attention": (2,), "groups": 8}
TINY = {
    "encoder": {"width": 32, "blocks": 0},
    "latent_dim": 8,
    "decoder": UNET,
    "diffusion": {"steps": 5, "noise_seed": 3},
    "commitment": 0.25,
}
FIT = FitConfig(steps=280, batch_size=8, lr=1.5e-3, device="cpu", threads=1, log_every=1000)


def make(spec=None, **settings):
    """Untrained, with random codes and a decoder that says something."""
    torch.manual_seed(0)
    tokenizer = DiVAETokenizer([spec or map_spec(features())], **{**TINY, **settings})
    tokenizer.network.quantiser.codes.normal_()
    torch.nn.init.normal_(tokenizer.network.decoder.out[2].weight, std=0.1)
    return tokenizer


@pytest.fixture(scope="module")
def fitted():
    torch.manual_seed(0)
    tokenizer = DiVAETokenizer([map_spec(features())], **TINY)
    fit_network(tokenizer, ramps(200), FIT)
    return tokenizer


def error_of(tokenizer):
    """Squared error on held-out maps over that of their mean."""
    held_out = np.stack(ramps(40, seed=1))
    decoded = np.stack(tokenizer.decode(tokenizer.encode(list(held_out))))
    return np.mean((decoded - held_out) ** 2) / np.mean((held_out - held_out.mean((0, 2, 3), keepdims=True)) ** 2)


def with_sampler(tokenizer, sampler, steps):
    diffusion = {**tokenizer.settings.diffusion.model_dump(), "sampler": sampler, "steps": steps}
    other = DiVAETokenizer(tokenizer.specs, **{**TINY, "diffusion": diffusion})
    other.adopt(tokenizer.state())
    return other


def test_fitting_beats_the_constant_by_every_sampler(fitted):
    assert error_of(fitted) < 0.4
    for sampler, steps in (("ddpm", 8), ("dpm_solver", 3)):
        assert error_of(with_sampler(fitted, sampler, steps)) < 0.5


@pytest.mark.slow
def test_predicting_v_learns_where_the_width_exceeds_the_numbers_of_a_patch():
    diffusion = {**TINY["diffusion"], "prediction": "v_prediction", "schedule": "linear", "steps": 25}
    torch.manual_seed(0)
    settings = {**TINY, "decoder": {**UNET, "width": 64, "patch": 2}, "diffusion": diffusion}
    tokenizer = DiVAETokenizer([map_spec(features())], **settings)
    fit_network(tokenizer, ramps(200), FIT.model_copy(update={"steps": 800}))
    assert error_of(tokenizer) < 0.5


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpm_solver"])
def test_decoding_is_a_pure_function_of_the_ids(sampler, tmp_path):
    tokenizer = make(diffusion={**TINY["diffusion"], "sampler": sampler})
    ids = tokenizer.encode(ramps(10))
    together = tokenizer.decode(ids)
    torch.manual_seed(5)  # of no matter
    alone, backwards = [tokenizer.decode([row])[0] for row in ids], tokenizer.decode(ids[::-1])[::-1]
    for a, b, c in zip(together, alone, backwards, strict=True):
        assert np.array_equal(a, b)
        assert np.array_equal(a, c)
    save_tokenizer(tokenizer, tmp_path / "map", manager=Host())
    again = load_tokenizer(tmp_path / "map", tokenizer.specs, Host())
    assert np.array_equal(again.decode(ids), together)
    other = make(diffusion={**TINY["diffusion"], "sampler": sampler, "noise_seed": 4})
    assert not np.array_equal(other.decode(ids), together)


def test_expected_decoding_of_certain_ids_is_plain_decoding():
    tokenizer = make()
    ids = np.stack(tokenizer.encode(ramps(3)))
    certain = np.eye(tokenizer.size, dtype=np.float32)[ids]
    for a, b in zip(tokenizer.decode_expected(certain), tokenizer.decode(list(ids)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_frozen_encoder_keeps_the_ids_of_the_tokenizer_it_comes_from(tmp_path):
    torch.manual_seed(1)
    source = VQVAETokenizer([map_spec(features())], **SMALL)
    fit_network(source, ramps(100), FIT.model_copy(update={"steps": 100, "lr": 3e-3}))
    save_tokenizer(source, tmp_path / "source", manager=Host())
    tokenizer = DiVAETokenizer(source.specs, **TINY, encoder_from=tmp_path / "source")
    fit_network(tokenizer, ramps(100), FIT.model_copy(update={"steps": 200, "lr": 3e-3}))
    maps = ramps(20, seed=2)
    assert np.array_equal(tokenizer.encode(maps), source.encode(maps))
    assert error_of(tokenizer) < 1
    save_tokenizer(tokenizer, tmp_path / "fitted", manager=Host())
    assert str(tmp_path) not in (tmp_path / "fitted" / "tokenizer.json").read_text()
    (tmp_path / "source" / "weights.safetensors").unlink()  # only fitting needs it
    again = load_tokenizer(tmp_path / "fitted", tokenizer.specs, Host())
    assert again.fingerprint == tokenizer.fingerprint
    assert np.array_equal(again.encode(maps), source.encode(maps))


@pytest.mark.parametrize("normalise", [True, False])
def test_a_frozen_encoder_makes_the_ids_of_inference_within_bf16_autocast(normalise):
    tokenizer = make(normalise_codes=normalise)
    network, maps = tokenizer.network, ramps(21)
    expected = np.stack(tokenizer.encode(maps))
    batch = tokenizer.tensor(maps)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert np.array_equal(network._fixed_ids(batch).numpy(), expected)
        assert np.array_equal(network.encode(batch[:8]).numpy(), expected[:8])
        assert np.array_equal(np.stack(tokenizer.encode(maps)), expected)
        decoded = tokenizer.decode(list(expected[:2]))
        network.frozen, seen = True, []
        lookup = network.quantiser.lookup
        network.quantiser.lookup = lambda ids: seen.append(ids) or lookup(ids)
        network.train()(batch)
    assert np.array_equal(seen[0].numpy(), expected)
    del network.quantiser.lookup
    assert np.array_equal(decoded, tokenizer.decode(list(expected[:2])))


def test_an_encoder_that_does_not_fit_is_refused(tmp_path):
    source = VQVAETokenizer([map_spec(features())], **SMALL)
    save_tokenizer(source, tmp_path / "source", manager=Host())
    other = DiVAETokenizer(source.specs, **{**TINY, "latent_dim": 4}, encoder_from=tmp_path / "source")
    with pytest.raises(ValueError, match="latent_dim is 8, but map has 4"):
        other.starting_network()
    nothing = DiVAETokenizer(source.specs, **TINY, encoder_from=tmp_path / "nothing")
    with pytest.raises(ValueError, match="no fitted tokenizer"):
        nothing.starting_network()
    single = DiVAETokenizer([map_spec(features(1))], **TINY, encoder_from=tmp_path / "source")
    with pytest.raises(ValueError, match="channels=3"):
        single.starting_network()


def test_gaps_are_left_out_of_the_loss():
    tokenizer = make(map_spec(features(1, gaps=True)))
    whole = ramps(2, channels=1)
    gap = [array.copy() for array in whole]
    gap[0][:, :5, :7] = np.nan
    batch = tokenizer.tensor(gap)
    assert tokenizer.counts(batch)[LOSS] == 2 * 16**2 - 35
    sums = tokenizer.network(batch)
    assert all(value.isfinite() for value in sums.values())
    sum(sums.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in tokenizer.network.parameters())


def test_conditions_are_hidden_as_often_as_asked():
    network = make(condition_mask=(0.25, 0.75), condition_dropout=0.3).network
    torch.manual_seed(0)
    shown = (network._hide(torch.ones(4000, 16, 8)) != 0).all(-1).float().mean(1)
    assert abs((shown == 0).float().mean() - 0.3) < 0.03
    assert shown[shown > 0].min() >= 0.25
    assert shown.max() <= 0.75
    assert abs(shown[shown > 0].mean() - 0.5) < 0.03
    assert torch.equal(make().network._hide(torch.ones(2, 16, 8)), torch.ones(2, 16, 8))


def test_guidance_moves_away_from_what_is_predicted_without_a_condition():
    network = make(condition_dropout=0.1, guidance=2.5).network.eval()
    x, t, latents = torch.randn(1, 3, 16, 16), torch.tensor([700]), torch.randn(1, 16, 8)
    with torch.no_grad():
        given, without = network.denoise(x, t, latents), network.denoise(x, t, torch.zeros_like(latents))
        torch.testing.assert_close(network._predict(latents)(x, t), without + 2.5 * (given - without))
    with pytest.raises(ValueError, match="condition_dropout"):
        make(guidance=2.0)


def test_a_folder_that_claims_more_than_it_holds_is_refused_before_memory_is_taken(tmp_path):
    save_tokenizer(make(), tmp_path / "map", manager=Host())
    path = tmp_path / "map" / "tokenizer.json"
    document = json.loads(path.read_text())
    document["settings"]["decoder"] |= {"width": 4096, "multipliers": [64, 64]}  # 5 TB
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"weights\.safetensors does not fit the tokenizer's settings: decoder\."):
        load_tokenizer(tmp_path / "map", [map_spec(features())], Host())


def test_what_it_cannot_decode_is_refused():
    with pytest.raises(ValueError, match="class_map; vqvae does"):
        make(map_spec(classes()))
    with pytest.raises(ValueError, match="16x16 does not divide by 32"):
        make(decoder={**UNET, "multipliers": (1, 1, 1, 1)})


def test_a_fitted_state_holds_no_training_buffers(fitted, tmp_path):
    fitted.save(tmp_path)
    names = set(load_file(tmp_path / "weights.safetensors"))
    assert "quantiser.codes" in names
    assert not {name for name in names if "cluster" in name or "batch" in name}


def test_a_diffusion_decoder_serves_maps_of_other_sizes():
    spec = map_spec(features())
    tokenizer = make(spec, encoder={"width": 32, "blocks": 0, "position_grid": (4, 4)})
    wide = tokenizer.for_spec(spec.on_grid(2, 8))
    arrays = list(np.random.default_rng(0).standard_normal((3, 3, 8, 32)).astype(np.float32))
    ids = wide.encode(arrays)
    decoded = wide.decode(ids)
    assert [array.shape for array in decoded] == [(3, 8, 32)] * 3
    assert np.array_equal(wide.decode(ids[1:2])[0], decoded[1])  # whatever it is decoded with
    assert wide.fingerprint == tokenizer.fingerprint
    assert float(tokenizer.network(torch.from_numpy(np.stack(arrays)))[LOSS].detach()) > 0
    assert wide.counts(torch.from_numpy(np.stack(arrays)))[LOSS] == 3 * 8 * 32
    with pytest.raises(ValueError, match="12x12 does not divide by 8"):
        tokenizer.for_spec(spec.on_grid(3, 3))

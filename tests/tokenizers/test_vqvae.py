"""The VQ-VAE as its users see it: arrays in, ids out, arrays back."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fourm_engine.fit.config import FitConfig
from fourm_engine.fit.fitting import fit_network
from fourm_engine.tokenizers.losses import LOSSES, loss_weights
from fourm_engine.tokenizers.vit import CodecSettings, DecoderSettings, ViTDecoder, ViTEncoder
from fourm_engine.tokenizers.vqvae import VQVAETokenizer
from fourm_plugins import FeatureMap
from tests.grids import CLASSES, CODES, SIZE, SMALL, TOKENS, classes, features, halves, map_spec, ramps

FIT = FitConfig(steps=250, batch_size=8, lr=3e-3, device="cpu", threads=1, log_every=1000)


@pytest.fixture(scope="module")
def fitted():
    """A tokenizer fitted on ramps, and what fitting reported."""
    torch.manual_seed(0)
    tokenizer = VQVAETokenizer([map_spec(features())], **SMALL)
    return tokenizer, fit_network(tokenizer, ramps(200), FIT)


def random_tokenizer(spec, **settings):
    """Untrained, with a random codebook."""
    torch.manual_seed(0)
    tokenizer = VQVAETokenizer([spec], **{**SMALL, **settings})
    tokenizer.network.quantiser.codes.normal_()
    return tokenizer


@pytest.mark.parametrize("blocks", [0, 2])
@pytest.mark.parametrize("post_mlp", [True, False])
def test_codec_maps_pictures_to_a_grid_of_latents_and_back(blocks, post_mlp):
    settings = CodecSettings(width=32, blocks=blocks, heads=4, post_mlp=post_mlp)
    encoder = ViTEncoder(3, (4, 2), (3, 5), settings)
    decoder = ViTDecoder(6, (4, 2), (3, 5), settings)
    latents = encoder(torch.randn(2, 3, 12, 10))
    assert latents.shape == (2, 15, 32)
    assert decoder(latents).shape == (2, 6, 12, 10)


def test_an_encoder_without_blocks_sees_each_patch_alone():
    encoder = ViTEncoder(1, (4, 4), (2, 2), CodecSettings(width=32, blocks=0))
    x = torch.randn(1, 1, 8, 8)
    changed = x.clone()
    changed[:, :, :4, :4] += 1
    difference = (encoder(x) - encoder(changed)).abs().amax(-1)[0]
    assert difference[0] > 1e-3
    assert difference[1:].max() == 0


def test_output_patches_unfold_as_channel_row_column():
    decoder = ViTDecoder(2, (2, 2), (1, 1), CodecSettings(width=8, heads=2, blocks=0))
    with torch.no_grad():
        decoder.out_proj.weight.zero_()
        decoder.out_proj.bias.copy_(torch.arange(8.0))
    assert decoder(torch.zeros(1, 1, 8))[0].tolist() == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]


def test_sizes_of_the_paper_stand_for_their_numbers():
    base = CodecSettings(size="B", post_mlp=False)
    assert (base.width, base.blocks, base.heads) == (768, 12, 12)
    assert base.model_dump() == CodecSettings(width=768, blocks=12, heads=12, post_mlp=False).model_dump()
    assert CodecSettings(size="S", width=512).width == 512
    with pytest.raises(ValueError, match=r"width=128 contradicts size='L', whose width is 1024"):
        DecoderSettings(size="L", width=128)
    tokenizer = VQVAETokenizer([map_spec(features())], encoder={"size": "S"}, decoder={"size": "S"})
    assert len(tokenizer.network.blocks()) == 16
    assert tokenizer.network.encoder.proj.out_features == 512


def test_the_tail_starts_as_nothing_and_sees_across_seams():
    decoder = ViTDecoder(2, (4, 4), (2, 2), DecoderSettings(width=8, heads=2, blocks=0, conv_tail=2))
    plain = ViTDecoder(2, (4, 4), (2, 2), DecoderSettings(width=8, heads=2, blocks=0))
    plain.load_state_dict(decoder.state_dict(), strict=False)
    x = torch.randn(1, 4, 8)
    assert torch.equal(decoder(x), plain(x))
    torch.nn.init.normal_(decoder.tail.proj_out.weight)
    changed = x.clone()
    changed[:, 0] += 1
    difference = (decoder(x) - decoder(changed)).abs().amax((0, 1))
    assert difference[:4, 4].min() > 0  # the next patch's first column
    assert (plain(x) - plain(changed)).abs().amax((0, 1))[:, 4:].max() == 0
    with pytest.raises(ValueError, match="conv_tail"):
        CodecSettings(conv_tail=1)


def test_feature_maps_of_one_position_a_token_are_taken():
    array = FeatureMap(channels=10, height=TOKENS, width=TOKENS)
    tokenizer = random_tokenizer(map_spec(array))
    arrays = list(np.random.default_rng(0).standard_normal((3, 10, TOKENS, TOKENS)).astype(np.float32))
    ids = tokenizer.encode(arrays)
    assert [row.shape for row in ids] == [(TOKENS**2,)] * 3
    assert tokenizer.decode(ids)[0].shape == (10, TOKENS, TOKENS)


def test_fitting_beats_the_constant_and_uses_the_codes(fitted):
    tokenizer, report = fitted
    held_out = np.stack(ramps(40, seed=1))
    decoded = np.stack(tokenizer.decode(tokenizer.encode(list(held_out))))
    constant = np.mean((held_out - held_out.mean((0, 2, 3), keepdims=True)) ** 2)
    assert np.mean((decoded - held_out) ** 2) < 0.5 * constant
    assert report["usage"] > 0.8
    assert 0.3 < report["perplexity"] <= report["usage"]


WAYS = {
    "split": {"restart": "split"},
    "random start": {"kmeans_start": False, "restart_below": 0.2, "decay": 0.95},
    "euclidean": {"normalise_codes": False, "decay": 0.9},
    "product": {"heads": 2},
    "fsq": {"quantiser": "fsq", "levels": [3, 3, 3], "latent_dim": 16},
    "lfq": {"quantiser": "lfq", "latent_dim": 16},
    "conv tail": {"decoder": {"width": 32, "blocks": 1, "conv_tail": 1}},
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_quantising_learns(way):
    torch.manual_seed(0)
    codes = {"fsq": 27, "product": 25, "lfq": 32}.get(way, CODES)
    tokenizer = VQVAETokenizer([map_spec(features(), codes=codes)], **{**SMALL, **WAYS[way]})
    report = fit_network(tokenizer, ramps(100), FIT.model_copy(update={"steps": 120}))
    held_out = np.stack(ramps(40, seed=1))
    decoded = np.stack(tokenizer.decode(tokenizer.encode(list(held_out))))
    constant = np.mean((held_out - held_out.mean((0, 2, 3), keepdims=True)) ** 2)
    assert np.mean((decoded - held_out) ** 2) < 0.6 * constant
    assert report["usage"] > 0.6
    assert report["dead codes"] == round((1 - report["usage"]) * codes)


def test_class_maps_are_learnt(fitted):
    torch.manual_seed(0)
    tokenizer = VQVAETokenizer([map_spec(classes())], **SMALL)
    fit_network(tokenizer, halves(200), FIT)
    held_out = np.stack(halves(40, seed=1))
    decoded = np.stack(tokenizer.decode(tokenizer.encode(list(held_out))))
    known = held_out >= 0
    assert decoded.dtype == np.int64
    assert 0 <= decoded.min() <= decoded.max() < CLASSES
    assert (decoded == held_out)[known].mean() > 0.6  # chance is 1 in 5


def test_ids_do_not_depend_on_the_batch(fitted):
    tokenizer, _ = fitted
    arrays = ramps(37, seed=2)
    together = tokenizer.encode(arrays)
    alone = [tokenizer.encode([array])[0] for array in arrays]
    backwards = tokenizer.encode(arrays[::-1])[::-1]
    for a, b, c in zip(together, alone, backwards, strict=True):
        assert a.dtype == np.int64
        assert a.tolist() == b.tolist() == c.tolist()


def test_ids_survive_save_and_load(fitted, tmp_path):
    tokenizer, _ = fitted
    tokenizer.save(tmp_path)
    again = VQVAETokenizer(tokenizer.specs, **SMALL)
    assert again.fingerprint != tokenizer.fingerprint
    again.load(tmp_path)
    assert again.fingerprint == tokenizer.fingerprint
    arrays = ramps(5, seed=3)
    assert np.array_equal(again.encode(arrays), tokenizer.encode(arrays))
    with pytest.raises(ValueError, match=r"weights\.safetensors.*quantiser\.codes.*\(24, 8\).*expected \(30, 8\)"):
        VQVAETokenizer([map_spec(features(), codes=30)], **SMALL).load(tmp_path)


def test_a_truncated_file_is_named(fitted, tmp_path):
    fitted[0].save(tmp_path)
    path = tmp_path / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"weights\.safetensors"):
        fitted[0].load(tmp_path)


def test_codes_near_one_another_decode_alike(fitted):
    tokenizer, _ = fitted
    codes = tokenizer.code_vectors()
    assert (codes.dtype, len(codes)) == (np.float32, CODES)
    whole = [np.full(tokenizer.spec.layout.num_tokens, i) for i in range(CODES)]
    decoded = np.stack(tokenizer.decode(whole)).reshape(CODES, -1)
    of_codes, of_arrays = (
        np.linalg.norm(x[:, None] - x[None], axis=-1)[np.triu_indices(CODES, 1)] for x in (codes, decoded)
    )
    assert np.corrcoef(of_codes, of_arrays)[0, 1] > 0.3


def test_expected_decoding_of_certain_ids_is_plain_decoding(fitted):
    tokenizer, _ = fitted
    ids = np.stack(tokenizer.encode(ramps(3, seed=4)))
    certain = np.eye(CODES, dtype=np.float32)[ids]
    for a, b in zip(tokenizer.decode_expected(certain), tokenizer.decode(list(ids)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_gaps_are_read_as_zero_and_left_out_of_the_loss():
    tokenizer = random_tokenizer(map_spec(features(1, gaps=True)))
    whole = ramps(1, channels=1)[0]
    gap, zero = whole.copy(), whole.copy()
    gap[:, :5, :7], zero[:, :5, :7] = np.nan, 0
    assert np.array_equal(tokenizer.encode([gap]), tokenizer.encode([zero]))
    batch = tokenizer.tensor([gap])
    assert tokenizer.counts(batch)["mse"] == SIZE**2 - 35
    sums = tokenizer.network(batch)
    output = tokenizer.network.reconstruct(tokenizer.network.quantiser(tokenizer.network.latents(batch)).latents)
    expected = np.nansum((output.detach().numpy()[0] - gap) ** 2)
    assert float(sums["mse"].detach()) == pytest.approx(expected, rel=1e-4)
    sum(sums.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in tokenizer.network.parameters())


def test_pixels_without_class_are_left_out_of_the_loss():
    tokenizer = random_tokenizer(map_spec(classes()))
    array = halves(1)[0]
    assert tokenizer.counts(tokenizer.tensor([array]))["cross_entropy"] == SIZE * (SIZE - 1)
    nothing = np.full((SIZE, SIZE), -1)
    assert float(tokenizer.network(tokenizer.tensor([nothing]))["cross_entropy"].detach()) == 0


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_losses_vanish_for_a_perfect_reconstruction_alone(name):
    x = torch.nn.functional.normalize(torch.randn(2, 3, 4, 4), dim=1)
    assert LOSSES[name](x, x).shape == (2, 4, 4)
    assert LOSSES[name](x, x).abs().max() < 1e-6
    assert LOSSES[name](x, -x).min() > 0.1


def test_a_loss_that_does_not_fit_the_array_is_refused():
    with pytest.raises(ValueError, match=r"cross_entropy.*feature_map.*mse"):
        VQVAETokenizer([map_spec(features())], **SMALL, loss={"cross_entropy": 1.0})
    with pytest.raises(ValueError, match=r"'l1'.*class_map.*cross_entropy"):
        VQVAETokenizer([map_spec(classes())], **SMALL, loss={"l1": 1.0})
    tokenizer = random_tokenizer(map_spec(features()), loss={"mse": 1.0, "cosine": 0.5})
    assert loss_weights(tokenizer.settings.loss, tokenizer.spec) == {"mse": 1.0, "cosine": 0.5}


WRONG = [
    (features(), np.zeros((3, 8, 8), np.float32), r"map: expected float32 \(3, 16, 16\), found float32 \(3, 8, 8\)"),
    (features(), np.zeros((3, 16, 16), np.int64), r"map: expected float32 .* found int64"),
    (features(), np.full((3, 16, 16), np.inf, np.float32), "map: 768 values are NaN or infinite"),
    (features(), np.full((3, 16, 16), np.nan, np.float32), "map: 768 values are NaN or infinite"),
    (features(gaps=True), np.full((3, 16, 16), np.nan, np.float32), "map: holds infinite values, or nothing but NaN"),
    (classes(), np.full((16, 16), 5), "map: class ids 5 to 5, outside -1 to 4"),
    (classes(), np.zeros((16, 16), np.float32), r"map: expected int64 .* found float32"),
]


@pytest.mark.parametrize(("array", "wrong", "message"), WRONG)
def test_arrays_that_do_not_fit_are_refused_by_name(array, wrong, message):
    with pytest.raises(ValueError, match=message):
        random_tokenizer(map_spec(array)).encode([wrong])


def test_ids_that_do_not_fit_are_refused_by_name():
    tokenizer = random_tokenizer(map_spec(features()))
    with pytest.raises(ValueError, match=r"map: tokens of shape \(3,\), expected \(16,\)"):
        tokenizer.decode([np.zeros(3, np.int64)])
    with pytest.raises(ValueError, match=r"map: ids 0…24 are not in \[0, 24\)"):
        tokenizer.decode([np.array([24] + [0] * 15)])


def test_too_few_latents_for_the_codebook_end_the_fit_with_a_remedy():
    tokenizer = VQVAETokenizer([map_spec(features(), codes=1000)], **SMALL)
    with pytest.raises(ValueError, match="1000 codes; fit for more steps"):
        fit_network(tokenizer, ramps(8), FIT.model_copy(update={"steps": 5}))


def test_planning_a_network_of_class_maps_does_not_import_torch_s_compiler():
    program = """
import sys, torch
from fourm_engine.tokenizers.vqvae import VQVAETokenizer
from tests.grids import SMALL, classes, map_spec
with torch.device("meta"):
    VQVAETokenizer([map_spec(classes())], **SMALL)
sys.exit("torch._dynamo" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])


@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 4, 4)])
def test_the_cosine_loss_is_torchs_cosine_with_its_gradient_and_knows_vectors_of_zero(shape):
    x, y = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)).unbind()
    x[0] = 0
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    loss, wanted = LOSSES["cosine"](ours, y), 1 - torch.cosine_similarity(theirs, y, dim=1, eps=1e-6)
    torch.testing.assert_close(loss, wanted)
    loss.sum().backward()
    wanted.sum().backward()
    assert ours.grad.isfinite().all()
    torch.testing.assert_close(ours.grad[1:], theirs.grad[1:])


def test_few_classes_are_embedded_alike_in_training_and_later_with_the_gradient_of_a_table():
    network = random_tokenizer(map_spec(classes())).network
    x = torch.randint(-1, CLASSES, (3, SIZE, SIZE), generator=torch.Generator().manual_seed(0))
    latents, gradients = [], []
    for training in (True, False):
        network.zero_grad()
        latents.append(network.train(training).latents(x))
        latents[-1].square().sum().backward()
        gradients.append(network.cls_emb.weight.grad)
    assert torch.equal(*latents)
    torch.testing.assert_close(*gradients)

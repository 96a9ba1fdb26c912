"""Positions follow the published formulas; tokens, masks and continuous inputs get the content they should."""

import math

import pytest
import torch

from fourm_engine.batch import Patches
from fourm_engine.nn.embeddings import sine_cosine_1d, sine_cosine_2d
from fourm_engine.nn.transformer import Transformer
from tests.nn.conftest import random_batch, small_config, tokens


def test_one_dimensional_positions_are_all_sines_then_all_cosines():
    table = sine_cosine_1d(40, 8)
    for n in (0, 1, 39):
        angles = [n * 10000 ** (-i / 4) for i in range(4)]
        expected = torch.tensor([math.sin(a) for a in angles] + [math.cos(a) for a in angles])
        torch.testing.assert_close(table[n], expected, atol=1e-6, rtol=0)


def test_two_dimensional_positions_are_the_row_then_the_column():
    table = sine_cosine_2d(3, 5, 16)
    for n in range(15):
        expected = torch.cat([sine_cosine_1d(3, 8)[n // 5], sine_cosine_1d(5, 8)[n % 5]])
        assert torch.equal(table[n], expected)


def test_each_modality_reads_its_own_positions_from_the_one_table(model, vocabulary):
    e = model.embedding
    for entry in vocabulary:
        rows = 12 if entry.layout.kind == "sequence" else entry.layout.num_tokens
        pos = torch.arange(rows)[None]
        mod = torch.full_like(pos, entry.index)
        pos_embed = e.position_embedding(pos, mod, e.encoder_positions)[0] - e.modality[entry.index]
        if entry.layout.kind == "grid":
            expected = sine_cosine_2d(3, 4, 32)
        elif entry.layout.kind == "sequence":
            expected = sine_cosine_1d(12, 32)  # twice max_tokens: targets hold sentinels, too
        else:
            expected = e.encoder_positions[entry.name]
            asked = e.decoder(torch.full_like(pos, -1), pos, mod)[0] - e.mask_token - e.modality[entry.index]
            torch.testing.assert_close(asked, e.decoder_positions[entry.name], atol=1e-6, rtol=0)
        torch.testing.assert_close(pos_embed, expected, atol=1e-6, rtol=0)


def test_content_comes_from_the_tables_the_mask_token_or_the_projection(model):
    e = model.embedding
    t = tokens([[(4, 1, 0, 0), (-1, 2, 2, 0), (20, 0, 3, 0)]])
    patch = torch.randn(1, 5)
    patches = Patches(patch, torch.tensor([0]), torch.tensor([1]))
    content, pos_embed = e.encoder(t.ids, t.pos, t.mod, {"pixels": patches})
    expected = torch.stack([e.encoder_table[4], e.projections["pixels"].weight @ patch[0], e.encoder_table[20]])
    torch.testing.assert_close(content[0], expected)
    decoded = e.decoder(t.ids, t.pos, t.mod) - pos_embed
    torch.testing.assert_close(decoded[0], torch.stack([e.decoder_table[4], e.mask_token, e.decoder_table[20]]))


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_packed_patches_give_what_a_dense_projection_gives(vocabulary, dtype):
    """The slow, obvious way: project (B, N, patch_dim), zero wherever another modality is."""
    batch = random_batch(vocabulary, 3)
    torch.manual_seed(0)
    e = Transformer(small_config(width=64), vocabulary).embedding
    t, pixels = batch.encoder, batch.continuous["pixels"]
    dense = torch.zeros(*t.shape, 5)
    dense[pixels.row, pixels.slot] = pixels.values
    with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
        table = torch.where((t.ids >= 0)[..., None], e.encoder_table[t.ids.clamp(min=0)], 0.0)
        slow = table + e.projections["pixels"](dense)
        fast, _ = e.encoder(t.ids, t.pos, t.mod, batch.continuous)
    assert torch.equal(fast, slow)
    gradients = [torch.autograd.grad(x.square().sum(), e.projections["pixels"].weight)[0] for x in (fast, slow)]
    torch.testing.assert_close(*gradients)


def test_a_batch_without_patches_trains_the_projection_of_nothing(model, batch):
    batch.continuous["pixels"] = Patches(torch.zeros(0, 5), *torch.zeros(2, 0, dtype=torch.int64))
    sum(loss for loss, _ in model(batch).values()).backward()
    assert not model.embedding.projections["pixels"].weight.grad.any()


def test_an_unknown_continuous_input_is_named(model, batch):
    with pytest.raises(ValueError, match=r"continuous input for colour, but .* only for pixels"):
        model.encode(batch.encoder, {"colour": batch.continuous["pixels"]})

"""A convolutional stem sees the patches that a sample shows, and nothing else."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fourm_engine.batch import Patches, Tokens
from fourm_engine.nn.flops import TrainedWeights, forward_flops, training_flops, training_flops_of
from fourm_engine.nn.memory import activation_bytes
from fourm_engine.nn.stem import layers
from fourm_engine.nn.transformer import Transformer
from fourm_engine.vocabulary import Vocabulary
from tests.nn.conftest import random_batch, small_config
from tests.nn.test_flops import sizes

GRID, PATCH, CHANNELS = (3, 4), (4, 4), 3


def with_pixels(vocabulary: Vocabulary, patch=PATCH) -> Vocabulary:
    """`pixels` with `CHANNELS` channels, in patches of a size."""
    dim = patch[0] * patch[1] * CHANNELS
    return Vocabulary(replace(e, patch_dim=dim, patch=patch) if e.patch_dim else e for e in vocabulary)


def learned(model: Transformer) -> Transformer:
    """As after training: the stem's norms are no longer the identity."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "stems" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture
def pixels(vocabulary):
    return with_pixels(vocabulary)


@pytest.fixture
def batch(vocabulary, pixels):
    batch = random_batch(vocabulary)
    given = batch.continuous["pixels"]
    values = torch.randn(len(given.values), pixels["pixels"].patch_dim, generator=torch.Generator().manual_seed(2))
    batch.continuous["pixels"] = Patches(values, given.row, given.slot)
    return batch


def content(model, tokens, continuous):
    return model.embedding.encoder(tokens.ids, tokens.pos, tokens.mod, continuous)[0]


def slow_stem(stem, row_of_patches, places):
    """One sample: its picture pixel by pixel, then convolution by convolution."""
    picture = torch.zeros(CHANNELS + 1, GRID[0] * PATCH[0], GRID[1] * PATCH[1])
    for patch, place in zip(row_of_patches, places, strict=True):
        top, left = place // GRID[1] * PATCH[0], place % GRID[1] * PATCH[1]
        for i in range(PATCH[0]):
            for j in range(PATCH[1]):
                for c in range(CHANNELS):
                    picture[c, top + i, left + j] = patch[(i * PATCH[1] + j) * CHANNELS + c]
                picture[CHANNELS, top + i, left + j] = 1
    x = picture[None]
    for convolution, norm in zip(stem.convolutions, stem.norms, strict=True):
        x = F.conv2d(x, convolution.weight, stride=convolution.stride, padding=1)
        mean, variance = x.mean(1, keepdim=True), x.var(1, keepdim=True, correction=0)
        x = (x - mean) / (variance + norm.eps).sqrt() * norm.weight[:, None, None] + norm.bias[:, None, None]
        x = F.gelu(x)
    x = F.conv2d(x, stem.proj.weight, stride=stem.proj.stride)[0]
    return torch.stack([x[:, place // GRID[1], place % GRID[1]] for place in places])


def test_a_stem_adds_to_each_projection_what_convolutions_see_of_the_patches_shown(pixels, batch):
    plain = Transformer(small_config(), pixels).eval()
    model = learned(Transformer(small_config(stem="conv"), pixels))
    model.load_state_dict(plain.state_dict(), strict=False)
    seen = content(model, batch.encoder, batch.continuous) - content(plain, batch.encoder, batch.continuous)
    given = batch.continuous["pixels"]
    for sample in range(2):
        mine = given.row == sample
        places = batch.encoder.pos[sample, given.slot[mine]].tolist()
        expected = slow_stem(model.embedding.stems["pixels"], given.values[mine], places)
        torch.testing.assert_close(seen[sample, given.slot[mine]], expected, atol=1e-5, rtol=1e-4)
    seen[given.row, given.slot] = 0
    assert not seen.any()  # of other modalities


def test_a_sample_does_not_depend_on_its_batch(pixels, batch):
    model = learned(Transformer(small_config(stem="conv"), pixels))
    both, given = content(model, batch.encoder, batch.continuous), batch.continuous["pixels"]
    for sample in range(2):
        mine = given.row == sample
        tokens = Tokens(*(getattr(batch.encoder, name)[sample : sample + 1] for name in ("ids", "pos", "mod", "order")))
        alone = Patches(given.values[mine], torch.zeros_like(given.row[mine]), given.slot[mine])
        torch.testing.assert_close(content(model, tokens, {"pixels": alone})[0], both[sample], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("given", ["no patch", "no entry"])
def test_without_its_modality_a_stem_has_gradients_of_zero(pixels, batch, given):
    model = Transformer(small_config(stem="conv"), pixels).train()
    batch.encoder.mod[batch.encoder.mod == pixels["pixels"].index] = -1
    none = torch.zeros(0, dtype=torch.int64)
    batch.continuous["pixels"] = Patches(torch.zeros(0, pixels["pixels"].patch_dim), none, none)
    if given == "no entry":
        batch.continuous.clear()
    sum(total for total, _ in model(batch).values()).backward()
    stems = dict(model.embedding.stems.named_parameters())
    assert "pixels.proj.weight" in stems
    for name, parameter in stems.items():
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name


def test_without_patches_of_its_modality_a_stem_has_gradients_of_zero(pixels, batch):
    """As in a process whose share of a step, or of the held-out samples, shows none."""
    model = Transformer(small_config(stem="conv"), pixels).train()
    batch.encoder.mod[batch.encoder.mod == pixels["pixels"].index] = -1
    given = batch.continuous["pixels"]
    batch.continuous["pixels"] = Patches(given.values[:0], given.row[:0], given.slot[:0])
    sum(total for total, _ in model(batch).values()).backward()
    for name, parameter in model.named_parameters():
        if "stems" in name:
            assert parameter.grad is not None, name
            assert not parameter.grad.any(), name


@pytest.mark.parametrize(
    ("patch", "convolutions", "last"),
    [((8, 8), 6, (1, 1)), ((14, 14), 2, (7, 7)), ((3, 3), 0, (3, 3)), ((4, 2), 2, (2, 1))],
)
def test_a_stem_leaves_one_cell_per_patch_of_any_size(vocabulary, patch, convolutions, last):
    pixels = with_pixels(vocabulary, patch)
    model = learned(Transformer(small_config(stem="conv"), pixels))
    stem = model.embedding.stems["pixels"]
    assert len(stem.convolutions) == convolutions
    assert stem.proj.kernel_size == last
    patches = torch.randn(2, 12, pixels["pixels"].patch_dim)
    assert stem(patches, torch.ones(2, 12, dtype=torch.bool)).shape == (2, 12, 32)


def test_channels_double_up_to_256(pixels):
    entry = replace(pixels["pixels"], patch=(16, 16), patch_dim=16 * 16 * 3)
    assert [layer.out for layer in layers(entry, 1024)[::2]] == [32, 64, 128, 256, 1024]


def test_the_flops_of_a_stem_are_those_that_torch_counts(pixels, batch):
    """For one whole picture; the other sample shows none."""
    config, index = small_config(stem="conv"), pixels["pixels"].index
    others = torch.where(batch.encoder.mod == index, -1, batch.encoder.mod)
    whole = torch.stack([torch.full((12,), index), torch.full((12,), -1)])
    ids, pos = torch.full((2, 12), -1), torch.arange(12).expand(2, 12)
    joined = [batch.encoder.ids, batch.encoder.pos, others, batch.encoder.order]
    batch.encoder = Tokens(*(torch.cat(pair, 1) for pair in zip(joined, [ids, pos, whole, pos], strict=True)))
    slots = torch.arange(12) + others.shape[1]
    batch.continuous["pixels"] = Patches(torch.randn(12, pixels["pixels"].patch_dim), torch.zeros_like(slots), slots)
    model = learned(Transformer(config, pixels)).train()
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as forward:
            loss = sum(total for total, _ in model(batch).values())
        with FlopCounterMode(display=False) as backward:
            loss.backward()
    flops = forward_flops(config, pixels, **sizes(batch))
    assert sum(flops.values()) == forward.get_total_flops()
    total = forward.get_total_flops() + backward.get_total_flops()
    assert training_flops(flops) == total
    assert training_flops_of(TrainedWeights.of(model), config, pixels, **sizes(batch)) == total


def test_the_estimate_of_memory_covers_the_stem(pixels, batch):
    config = small_config(stem="conv")
    model, kept = Transformer(config, pixels), {}
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        content(model, batch.encoder, batch.continuous)
    measured = sum(storage.nbytes() for storage in kept.values())
    (B, N), M = batch.encoder.mod.shape, batch.decoder.mod.shape[1]
    parts = activation_bytes(config, pixels, B=B, N=N, M=M, targets=batch.target_counts, bf16=False)
    assert parts["stems"] == pytest.approx(measured, rel=0.25)

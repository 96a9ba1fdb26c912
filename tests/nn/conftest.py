"""A small vocabulary with every layout, and random batches over it."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from fourm_engine.batch import Batch, Patches, Tokens
from fourm_engine.nn.transformer import ModelConfig, Transformer
from fourm_engine.vocabulary import Entry, Vocabulary
from fourm_plugins.spec import Grid, Sequence, Vector


def make_vocabulary(rows: list[tuple]) -> Vocabulary:
    """From (name, number of ids, layout, patch_dim)."""
    entries, start = [], 0
    for index, (name, size, layout, patch_dim) in enumerate(rows):
        entries.append(Entry(name, index, start, start + size, layout, patch_dim))
        start += size
    return Vocabulary(entries)


@pytest.fixture
def vocabulary() -> Vocabulary:
    return make_vocabulary(
        [
            ("colour", 11, Grid(height=3, width=4), 0),
            ("depth", 7, Grid(height=3, width=4), 0),
            ("pixels", 0, Grid(height=3, width=4), 5),
            ("text", 23, Sequence(max_tokens=6), 0),
            ("pose", 9, Vector(length=3), 0),
        ]
    )


def packed(dense: Tensor, where: Tensor) -> Patches:
    """The patches of dense (B, N, d) at the slots `where` (B, N) bool."""
    return Patches(dense[where], *where.nonzero(as_tuple=True))


def small_config(**changes: object) -> ModelConfig:
    return ModelConfig(**{"width": 32, "encoder_blocks": 2, "decoder_blocks": 2, "heads": 4, **changes})


@pytest.fixture
def model(vocabulary: Vocabulary) -> Transformer:
    torch.manual_seed(0)
    return lively(Transformer(small_config(), vocabulary))


def lively(model: Transformer) -> Transformer:
    """Biases, norms and output rows away from their initial zeros, ones and smallness, so that a test can see them."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("bias") or "norm" in name:
                p.add_(0.3 * torch.randn_like(p))
        model.heads.weight.normal_()
    return model


def tokens(rows: list[list[tuple[int, int, int, int]]]) -> Tokens:
    """Rows of (id, pos, mod, order), padded to the longest."""
    length = max(1, *(len(row) for row in rows))
    padded = [row + [(-1, 0, -1, 0)] * (length - len(row)) for row in rows]
    return Tokens(*torch.tensor(padded, dtype=torch.int64).unbind(-1))


def random_batch(vocabulary: Vocabulary, seed: int = 0) -> Batch:
    """Two samples: all modalities as input; both grids, the text and the pose as targets."""
    g = torch.Generator().manual_seed(seed)

    def draw(name: str, n: int) -> list[int]:
        entry = vocabulary[name]
        return torch.randint(entry.start, entry.stop, (n,), generator=g).tolist()

    encoder, decoder, targets = [], [], []
    for sample in range(2):
        places = torch.randperm(12, generator=g).tolist()
        row = [(i, p, 0, 0) for i, p in zip(draw("colour", 3), places, strict=False)]
        row += [(-1, p, 2, 0) for p in places[: 4 - sample]]
        row += [(i, p, 3, 0) for p, i in enumerate(draw("text", 2 + sample))]
        row += [(draw("pose", 1)[0], 2, 4, 0)]
        encoder.append(row)
        out = []
        for name, mod in (("colour", 0), ("depth", 1)):
            for place, target in zip(places[5:9], draw(name, 4), strict=True):
                targets.append((mod, sample, len(out), target))
                out.append((-1, place, mod, 0))
        text = draw("text", 4 + sample)
        for rank, (now, following) in enumerate(pairwise(text)):
            targets.append((3, sample, len(out), following))
            out.append((now, rank, 3, rank))
        targets.append((4, sample, len(out), draw("pose", 1)[0]))
        out.append((-1, 1, 4, 0))
        decoder.append(out)
    encoder_tokens, decoder_tokens = tokens(encoder), tokens(decoder)
    pixels = packed(torch.randn(*encoder_tokens.shape, 5, generator=g), encoder_tokens.mod == 2)
    targets.sort()
    width = decoder_tokens.shape[1]
    names = vocabulary.names
    return Batch(
        encoder_tokens,
        decoder_tokens,
        {"pixels": pixels},
        torch.tensor([sample * width + slot for _, sample, slot, _ in targets]),
        torch.tensor([target - vocabulary.entries[mod].start for mod, _, _, target in targets]),
        {name: sum(names[mod] == name for mod, *_ in targets) for name in ("colour", "depth", "text", "pose")},
    )


@pytest.fixture
def batch(vocabulary: Vocabulary) -> Batch:
    return random_batch(vocabulary)


def outputs(model: Transformer, batch: Batch) -> Tensor:
    """Decoder output (B, M, D)."""
    context, valid = model.encode(batch.encoder, batch.continuous)
    return model.decode(batch.decoder, context, valid)

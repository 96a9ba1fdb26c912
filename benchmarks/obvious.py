"""4M's training step written down as the paper tells it, with nothing done to make it fast: what ours is timed against.

Every token of every modality is embedded, then the kept ones are gathered; attention is products and a softmax; the
loss picks each modality's tokens by a boolean index; AdamW goes through the parameters one by one. The weights are
those of a `Transformer`, so that the losses can be compared, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fourm_engine.batch import Batch, Tokens
from fourm_engine.nn.transformer import Transformer
from fourm_engine.vocabulary import Vocabulary


@dataclass
class Modality:
    """All L tokens of one modality, on one side of the model."""

    content: Tensor  # (B, L) ids, or (B, L, patch_dim) patches
    kept: Tensor  # (B, L) bool
    order: Tensor  # (B, L); a token of the decoder sees those of its modality with an order up to its own
    labels: Tensor  # (B, L) ids local to the modality, -1 where nothing is predicted

    def to(self, device: torch.device) -> Modality:
        return Modality(*(tensor.to(device) for tensor in vars(self).values()))


@dataclass
class Dense:
    """A batch in which every modality is whole: what the packed `Batch` was made from."""

    inputs: dict[str, Modality]
    targets: dict[str, Modality]

    def to(self, device: torch.device) -> Dense:
        return Dense(*({name: one.to(device) for name, one in side.items()} for side in (self.inputs, self.targets)))


def dense(batch: Batch, vocabulary: Vocabulary) -> Dense:
    """The packed batch with each modality at full length; tokens that masking dropped become arbitrary ones."""
    labels = torch.full_like(batch.decoder.ids, -1)
    labels.view(-1)[batch.target_index] = batch.target_ids
    patches = {name: (one.row, one.slot, one.values) for name, one in batch.continuous.items()}
    return Dense(
        _side(batch.encoder, torch.full_like(batch.encoder.ids, -1), vocabulary, patches),
        _side(batch.decoder, labels, vocabulary, {}),
    )


def _side(tokens: Tokens, labels: Tensor, vocabulary: Vocabulary, patches: dict[str, Any]) -> dict[str, Modality]:
    side, B = {}, len(tokens.ids)
    for entry in vocabulary:
        length = entry.layout.max_tokens if entry.layout.kind == "sequence" else entry.layout.num_tokens
        row, slot = (tokens.mod == entry.index).nonzero(as_tuple=True)
        at = row, tokens.pos[row, slot]
        length = max(length, int(at[1].max()) + 1 if len(row) else 0)
        content = torch.randint(entry.start, max(entry.stop, entry.start + 1), (B, length))
        if entry.name in patches:
            row_of, slot_of, values = patches[entry.name]
            content = torch.randn(B, length, entry.patch_dim)
            content[row_of, tokens.pos[row_of, slot_of]] = values
        elif entry.size == 0:
            continue  # pixels are no targets
        else:
            content[at] = tokens.ids[row, slot]
        kept, order = torch.zeros(B, length, dtype=torch.bool), torch.zeros(B, length, dtype=torch.int64)
        label = torch.full((B, length), -1)
        kept[at], order[at], label[at] = True, tokens.order[row, slot], labels[row, slot]
        side[entry.name] = Modality(content, kept, order, label)
    return side


class Obvious(nn.Module):
    """`model`'s function on `Dense` batches, keeping N tokens in the encoder and M in the decoder."""

    def __init__(self, model: Transformer, vocabulary: Vocabulary, N: int, M: int) -> None:
        super().__init__()
        self.model, self.vocabulary, self.N, self.M = model, vocabulary, N, M

    def forward(self, batch: Dense) -> dict[str, tuple[Tensor, int]]:
        """Modality -> (sum of its cross-entropies in nats, number of predicted tokens)."""
        model, heads = self.model, self.model.config.heads
        x, pos_embed, kept, _, _, _ = self.embed(batch.inputs, self.N, decoder=False)
        seen = kept[:, None, None, :]
        for block in model.encoder:
            x = x + self_attention(block.attn, block.norm1(x), heads, seen)
            x = x + mlp(block.mlp, block.norm2(x))
        context = model.context_proj(model.encoder_norm(x)) + pos_embed

        y, _, _, mod, order, labels = self.embed(batch.targets, self.M, decoder=True)
        causal = (mod[:, None, :, None] == mod[:, None, None, :]) & (order[:, None, None, :] <= order[:, None, :, None])
        for block in model.decoder:
            y = y + self_attention(block.self_attn, block.norm1(y), heads, causal)
            y = y + cross_attention(block.cross_attn, block.query_norm(y), block.context_norm(context), heads, seen)
            y = y + mlp(block.mlp, block.norm2(y))
        y = model.decoder_norm(y)

        losses = {}
        for entry in self.vocabulary:
            if entry.size:
                here = (mod == entry.index) & (labels >= 0)
                logits = F.linear(y[here], model.heads.weight[entry.start : entry.stop])
                losses[entry.name] = F.cross_entropy(logits.float(), labels[here], reduction="sum"), int(here.sum())
        return losses

    def embed(self, side: dict[str, Modality], number: int, *, decoder: bool) -> tuple[Tensor, ...]:
        """All tokens of all modalities, of which the kept ones are gathered: content + pos_embed, pos_embed (B, n, D);
        kept, modality (-1: padding), order and label (B, number)."""
        embedding, parts = self.model.embedding, []
        table = embedding.decoder_table if decoder else embedding.encoder_table
        for name, one in side.items():
            if one.content.is_floating_point():
                x = embedding.projections[name](one.content)
            elif decoder:
                x = torch.where((one.content >= 0)[..., None], table[one.content.clamp(min=0)], embedding.mask_token)
            else:
                x = table[one.content]
            index = torch.full_like(one.kept, self.vocabulary[name].index, dtype=torch.int64)
            positions = torch.arange(x.shape[1], device=x.device)
            learned = embedding.decoder_positions if decoder else embedding.encoder_positions
            pos_embed = embedding.position_embedding(positions, index[0], learned).expand_as(x)
            parts.append((x + pos_embed, pos_embed, one.kept, index, one.order, one.labels))
        x, pos_embed, kept, mod, order, labels = (torch.cat(part, dim=1) for part in zip(*parts, strict=True))
        first = torch.argsort(~kept, dim=1, stable=True)[:, :number]
        wide = first[..., None].expand(-1, -1, x.shape[2])
        kept = kept.gather(1, first)
        mod = torch.where(kept, mod.gather(1, first), -1)
        return x.gather(1, wide), pos_embed.gather(1, wide), kept, mod, order.gather(1, first), labels.gather(1, first)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return (scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)


def split(x: Tensor, heads: int) -> Tensor:
    """(B, N, D) -> (B, H, N, D / H)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def self_attention(layer: Any, x: Tensor, heads: int, mask: Tensor) -> Tensor:
    q, k, v = (split(part, heads) for part in layer.qkv(x).chunk(3, dim=-1))
    return layer.proj(attention(layer.q_norm(q), layer.k_norm(k), v, mask))


def cross_attention(layer: Any, x: Tensor, context: Tensor, heads: int, mask: Tensor) -> Tensor:
    k, v = (split(part, heads) for part in layer.kv(context).chunk(2, dim=-1))
    return layer.proj(attention(layer.q_norm(split(layer.q(x), heads)), layer.k_norm(k), v, mask))


def mlp(layer: Any, x: Tensor) -> Tensor:
    if hasattr(layer, "fc3"):
        return layer.fc2(F.silu(layer.fc1(x)) * layer.fc3(x))
    return layer.fc2(F.gelu(layer.fc1(x)))


def optimiser(model: nn.Module) -> torch.optim.Optimizer:
    """AdamW, parameter after parameter."""
    return torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), foreach=False, fused=False)

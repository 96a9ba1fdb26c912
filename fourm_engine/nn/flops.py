"""FLOPs of the network's matrix products, a multiply-add counting as two; the basis of a run's `mfu`.

In: the model's shape, the vocabulary, the shape of a batch, the trainable weights. Out: FLOPs by part of the network.
Norms, softmax, gathers, and recomputation to save memory do not count, as usual for "model FLOPs" (PaLM, arXiv
2204.02311, appendix B). Padded slots count: products include them. Of a stem's convolutions, the share of the patches
that are shown counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from fourm_engine.nn.adapt import LowRank
from fourm_engine.nn.blocks import hidden_width
from fourm_engine.nn.config import ModelConfig
from fourm_engine.nn.stem import stem_entries, stem_flops

if TYPE_CHECKING:
    from fourm_engine.vocabulary import Vocabulary


def forward_flops(
    config: ModelConfig,
    vocabulary: Vocabulary,
    *,
    B: int,
    N: int,
    M: int,
    targets: Mapping[str, float],
    patches: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """Part -> FLOPs of one forward pass over B samples of N encoder and M decoder slots.

    Args:
        targets: modality -> predicted tokens of the whole batch.
        patches: modality -> patches of continuous inputs of the whole batch."""
    patches, N = patches or {}, N + config.registers
    D, n, m = config.width, B * N, B * M
    stems = _stems(config, vocabulary, patches)
    encoder = n * _block(config) + 4 * B * N * N * D
    # Queries and outputs of the cross-attention are over M tokens, its keys and values over N.
    decoder = m * (_block(config) + 4 * D * D) + n * 4 * D * D + 4 * B * M * (M + N) * D
    return {
        "patches": float(sum(2 * patches.get(e.name, 0) * e.patch_dim * D for e in vocabulary if e.patch_dim))
        + sum(first for first, _ in stems.values()),
        **({"stems": sum(others for _, others in stems.values())} if stems else {}),
        "encoder": float(config.encoder_blocks * encoder),
        "context": float(2 * n * D * D),
        "decoder": float(config.decoder_blocks * decoder),
        "heads": float(sum(2 * targets.get(e.name, 0) * e.size * D for e in vocabulary)),
    }


def training_flops(forward: Mapping[str, float]) -> float:
    """FLOPs of a forward and backward pass if every weight is trained. Each product has two gradients of the same cost,
    except those of patches, which need no input gradient."""
    return 3 * sum(forward.values()) - forward["patches"]


@dataclass(frozen=True)
class TrainedWeights:
    """Which weights of a network have a gradient: their names and all prefixes, "encoder.0.attn" as well as
    "encoder.0.attn.qkv.weight". The gradient of an adapted matrix is computed, since those of A and B follow from
    it."""

    names: frozenset[str]
    #: FLOPs of the products B A of a step, forward and backward.
    adapter_flops: float

    @classmethod
    def of(cls, network: nn.Module) -> TrainedWeights:
        """`network` may be on the meta device."""
        names = set[str]()
        for name, parameter in network.named_parameters():
            if parameter.requires_grad:
                parts = name.split(".")
                if "parametrizations" in parts:  # <layer>.parametrizations.<weight>.…
                    at = parts.index("parametrizations")
                    parts = [*parts[:at], parts[at + 1]]
                names.update(".".join(parts[:end]) for end in range(1, len(parts) + 1))
        adapters = (m for m in network.modules() if isinstance(m, LowRank))
        return cls(frozenset(names), float(sum(6 * m.up.numel() * m.down.shape[1] for m in adapters)))


class _Backward:
    """Sums the products of a backward pass, layer by layer, in the order of the forward pass: a weight has a gradient
    if it is trained, an input if anything below it is."""

    def __init__(self, trained: TrainedWeights) -> None:
        self.names, self.total = trained.names, 0.0

    def linear(self, layer: str, flops: float, live: bool) -> bool:
        """`live`: whether the input has a gradient; returns whether the output has one."""
        self.total += flops * (f"{layer}.weight" in self.names) + flops * live
        return live or layer in self.names

    def attention(self, layer: str, product: float, queries: bool, values: bool) -> bool:
        """Two products: of queries and keys, and of their softmax and the values."""
        keys = values or f"{layer}.k_norm" in self.names
        queries = queries or f"{layer}.q_norm" in self.names
        self.total += product * (queries + keys) + product * ((queries or keys) + values)
        return queries or keys

    def self_attention(self, layer: str, live: bool, token: float, product: float) -> bool:
        norm = f"{layer.rpartition('.')[0]}.norm1"
        inside = self.linear(f"{layer}.qkv", 3 * token, live or norm in self.names)
        inside = self.attention(layer, product, inside, inside)
        return self.linear(f"{layer}.proj", token, inside) or live

    def mlp(self, block: str, live: bool, product: float, matrices: int) -> bool:
        inside = live or f"{block}.norm2" in self.names
        outs = [self.linear(f"{block}.mlp.{name}", product, inside) for name in ("fc1", "fc3")[: matrices - 1]]
        return self.linear(f"{block}.mlp.fc2", product, any(outs)) or live


def training_flops_of(
    trained: TrainedWeights,
    config: ModelConfig,
    vocabulary: Vocabulary,
    *,
    B: int,
    N: int,
    M: int,
    targets: Mapping[str, float],
    patches: Mapping[str, float] | None = None,
) -> float:
    """Like `training_flops`, if only some weights are trained; the arguments are those of `forward_flops`."""
    forward = forward_flops(config, vocabulary, B=B, N=N, M=M, targets=targets, patches=patches)
    names, D, back = trained.names, config.width, _Backward(trained)
    N += config.registers
    matrices = 2 if config.mlp == "gelu" else 3
    hidden = 2 * D * hidden_width(config.mlp, config.mlp_ratio, D)
    token, wide, n, m = 2 * D * D, float(hidden), B * N, B * M
    for entry in vocabulary:
        if entry.patch_dim and f"embedding.projections.{entry.name}.weight" in names:
            back.total += 2 * (patches or {}).get(entry.name, 0) * entry.patch_dim * D
    for name, (first, others) in _stems(config, vocabulary, patches or {}).items():
        if f"embedding.stems.{name}" in names:
            back.total += first + 2 * others
    placed = any(f"embedding.{part}" in names for part in ("modality", "encoder_positions"))
    inputs = ("embedding.encoder_table", "embedding.projections", "embedding.stems", "registers")
    live = placed or any(part in names for part in inputs)
    for number in range(config.encoder_blocks):
        block = f"encoder.{number}"
        live = back.self_attention(f"{block}.attn", live, n * token, 2.0 * B * N * N * D)
        live = back.mlp(block, live, n * wide, matrices)
    context = back.linear("context_proj", n * token, live or "encoder_norm" in names) or placed
    live = any(
        f"embedding.{part}" in names for part in ("modality", "decoder_positions", "decoder_table", "mask_token")
    )
    for number in range(config.decoder_blocks):
        block = f"decoder.{number}"
        live = back.self_attention(f"{block}.self_attn", live, m * token, 2.0 * B * M * M * D)
        cross = f"{block}.cross_attn"
        queries = back.linear(f"{cross}.q", m * token, live or f"{block}.query_norm" in names)
        keys = back.linear(f"{cross}.kv", n * 2 * token, context or f"{block}.context_norm" in names)
        seen = back.attention(cross, 2.0 * B * M * N * D, queries, keys)
        live = back.linear(f"{cross}.proj", m * token, seen) or live
        live = back.mlp(block, live, m * wide, matrices)
    live = live or "decoder_norm" in names
    back.total += forward["heads"] * (("heads" in names) + live)
    return sum(forward.values()) + back.total + trained.adapter_flops


def _stems(config: ModelConfig, vocabulary: Vocabulary, patches: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """Modality -> FLOPs of its stem's first convolution, and of the others, for the share of pictures that is shown."""
    flops = {}
    for entry in stem_entries(config.stem, vocabulary):
        if shown := patches.get(entry.name):
            first, others = stem_flops(entry, config.width)
            pictures = shown / entry.layout.num_tokens
            flops[entry.name] = first * pictures, others * pictures
    return flops


def _block(config: ModelConfig) -> int:
    """A token's products with the weights of a block: queries, keys, values, output; the MLP."""
    D = config.width
    matrices = 2 if config.mlp == "gelu" else 3
    return 8 * D * D + 2 * matrices * D * hidden_width(config.mlp, config.mlp_ratio, D)

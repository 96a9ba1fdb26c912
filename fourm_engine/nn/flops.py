"""FLOPs of the network's matrix products, a multiply-add counted as two; the basis of a run's `mfu`.

In: the model's shape, the vocabulary, the shape of a batch. Out: FLOPs by part of the network. Norms, softmax, gathers
and what is computed twice to save memory are not counted, as is usual for "model FLOPs" (PaLM, arXiv 2204.02311,
appendix B). Padded slots are: the products are made for them, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from fourm_engine.nn.blocks import hidden_width
from fourm_engine.nn.config import ModelConfig

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
    encoder = n * _block(config) + 4 * B * N * N * D
    # Queries and outputs of the cross-attention are of M tokens, its keys and values of N.
    decoder = m * (_block(config) + 4 * D * D) + n * 4 * D * D + 4 * B * M * (M + N) * D
    return {
        "patches": float(sum(2 * patches.get(e.name, 0) * e.patch_dim * D for e in vocabulary if e.patch_dim)),
        "encoder": float(config.encoder_blocks * encoder),
        "context": float(2 * n * D * D),
        "decoder": float(config.decoder_blocks * decoder),
        "heads": float(sum(2 * targets.get(e.name, 0) * e.size * D for e in vocabulary)),
    }


def training_flops(forward: Mapping[str, float]) -> float:
    """Of forward and backward pass, where every weight learns. A product has two gradients of its cost each, but for
    patches, which are given and need none."""
    return 3 * sum(forward.values()) - forward["patches"]


def _block(config: ModelConfig) -> int:
    """A token's products with the weights of a block: queries, keys, values, output; the MLP."""
    D = config.width
    matrices = 2 if config.mlp == "gelu" else 3
    return 8 * D * D + 2 * matrices * D * hidden_width(config.mlp, config.mlp_ratio, D)

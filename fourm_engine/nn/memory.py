"""Estimates the memory that a forward pass keeps for the backward pass.

In: the model's shape, the vocabulary, the shape of a batch. Out: bytes by part of the network. Kernels, the rounding of
the allocator and the compiler's fusions are not modelled; the estimate is within a quarter of what eager torch keeps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from fourm_engine.nn.blocks import hidden_width
from fourm_engine.nn.config import Checkpointing, ModelConfig
from fourm_engine.nn.heads import MAX_LOGITS
from fourm_engine.nn.stem import stem_entries, stem_numbers

if TYPE_CHECKING:
    from fourm_engine.vocabulary import Vocabulary


def activation_bytes(
    config: ModelConfig,
    vocabulary: Vocabulary,
    *,
    B: int,
    N: int,
    M: int,
    targets: Mapping[str, float],
    bf16: bool,
    checkpointing: Checkpointing = "none",
) -> dict[str, float]:
    """Part -> bytes, for B samples of N encoder and M decoder slots in one micro-batch.

    `targets`: modality -> predicted tokens of the whole batch. `bf16`: under autocast, which keeps norms and the
    residual stream in fp32. `checkpointing` adds the activations of one block, which exist while it is recomputed."""
    N += config.registers
    D, size = config.width, 2 if bf16 else 4
    mlp = hidden_width(config.mlp, config.mlp_ratio, D) * (2 if config.mlp == "gelu" else 4)
    # The stream before a norm; its output, under autocast also in bf16.
    norm = D * (4 + 4 + (2 if bf16 else 0)) if bf16 else 2 * D * 4
    attention = 5 * D * size  # queries, keys, values; the output before and after padded rows are cleared
    block = 2 * norm + attention + mlp * size
    logits = sum(min(targets.get(e.name, 0) * e.size, MAX_LOGITS) for e in vocabulary) * (4 + (2 if bf16 else 0))
    decoder = B * M * (block + norm + 3 * D * size) + B * N * (norm + 2 * D * size)  # keys and values of the context
    encoder, again = B * N * block, 0.0
    if checkpointing != "none":
        again = float(max(encoder, decoder))
        encoder, decoder = 4 * B * N * D, 4 * B * M * D  # the stream before each block
    if checkpointing == "selective":
        products = (6 * D + hidden_width(config.mlp, config.mlp_ratio, D) * (1 if config.mlp == "gelu" else 2)) * size
        encoder += B * N * products
        decoder += B * M * (products + 3 * D * size) + B * N * 2 * D * size
    stems = stem_entries(config.stem, vocabulary)
    parts = {
        **({"stems": float(B * size * sum(stem_numbers(entry, D) for entry in stems))} if stems else {}),
        "encoder": float(config.encoder_blocks * encoder),
        "decoder": float(config.decoder_blocks * decoder),
        "heads": float(logits),
    }
    return parts if checkpointing == "none" else {**parts, "one block again": again}

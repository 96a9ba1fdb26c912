"""The memory of a run, and the size of its checkpoints, before it begins.

In: a config, its network without memory, the mean number of targets. Out: bytes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from fourm_engine.nn.memory import activation_bytes
from fourm_engine.nn.transformer import Transformer
from fourm_engine.recipes.config import RunConfig
from fourm_engine.train.config import TrainConfig
from fourm_engine.train.parallel import copies
from fourm_engine.vocabulary import Vocabulary

MACHINE = 8  # devices in a machine, as far as nothing says otherwise


def memory_of(
    config: RunConfig,
    network: Transformer,
    vocabulary: Vocabulary,
    targets: Mapping[str, float],
    *,
    world: int,
    bf16: bool,
    on_gpu: bool,
) -> dict[str, float]:
    """Bytes on each device, by part: fp32, except for activations under autocast. Sharded weights are split over
    devices."""
    train = config.train
    split = world // copies(train, world, machine=MACHINE)
    weights = sum(4.0 * p.numel() for p in network.parameters()) / split
    learning = sum(4.0 * p.numel() for p in network.parameters() if p.requires_grad) / split
    B = train.batch_size // (world * train.accumulate)
    N, M = config.masking.encoder_tokens, config.masking.decoder_tokens
    of_batch = {name: B * count for name, count in targets.items()}
    how = train.activation_checkpointing
    activations = activation_bytes(
        config.model, vocabulary, B=B, N=N, M=M, targets=of_batch, bf16=bf16, checkpointing=how
    )
    parts = {"parameters": weights, "gradients": learning, **_beside(train, learning)}
    if split > 1 or (on_gpu and world > 1):  # FSDP2, which copies the shard of a replica, too
        parts["gathered"] = _gathered(network, size=2 if bf16 else 4)
    return {**parts, "activations": sum(activations.values())}


def _beside(train: TrainConfig, learning: float) -> dict[str, float]:
    """Bytes kept beside the weights, by part; `learning`: bytes of the weights that learn."""
    parts = {}
    if train.optimiser == "adamw":  # the state of other optimisers is not known in advance
        parts["optimiser (2 moments)"] = 2 * learning
    if train.ema is not None:
        parts["averages"] = learning
    return parts


def _gathered(network: Transformer, *, size: int) -> float:
    """Bytes that FSDP2 gathers for a while: a block, the next one, and a block's gradients before they are divided;
    from the first use to the last, what lies outside the blocks, and its gradients."""

    def count(module: torch.nn.Module, *, learning: bool = False) -> float:
        return float(sum(p.numel() for p in module.parameters() if p.requires_grad or not learning))

    blocks = [*network.encoder, *network.decoder]
    outside = count(network) - sum(map(count, blocks))
    learning = count(network, learning=True) - sum(count(block, learning=True) for block in blocks)
    return 4 * (outside + learning) + max(map(count, blocks)) * (3 * size + 4)


def checkpoint_bytes(config: RunConfig, network: Transformer) -> float:
    """Bytes of a checkpoint: weights, moments, averages, in fp32."""
    learning = 4.0 * sum(p.numel() for p in network.parameters() if p.requires_grad)
    return 4.0 * sum(p.numel() for p in network.parameters()) + sum(_beside(config.train, learning).values())

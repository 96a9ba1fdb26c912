"""Estimate the memory of a run before it starts.

In: the `train` section, the network on the meta device, the mean number of targets. Out: bytes; an error for a run on
CPUs that does not fit, which the kernel's OOM killer would otherwise end silently.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from fourm_engine.device import Memory, local_world
from fourm_engine.nn.memory import activation_bytes
from fourm_engine.nn.transformer import Transformer
from fourm_engine.train.config import TrainConfig
from fourm_engine.train.console import gib
from fourm_engine.train.disk_space import checkpoint_bytes, kept_beside
from fourm_engine.train.parallel import copies
from fourm_engine.vocabulary import Vocabulary

MACHINE = 8  # devices per machine, by default
#: Fraction by which an estimate may be too high.
DOUBT = 0.25


def memory_of(
    train: TrainConfig,
    network: Transformer,
    vocabulary: Vocabulary,
    *,
    N: int,
    M: int,
    targets: Mapping[str, float],
    world: int,
    bf16: bool,
    on_gpu: bool,
    machine: int = MACHINE,
) -> dict[str, float]:
    """Bytes per device, by part: fp32, except for activations under autocast. Sharded weights, and their copies for a
    checkpoint, are split over devices. N, M: rows of encoder and decoder; `targets`: mean tokens per sample; `machine`:
    devices per machine."""
    split = world // copies(train, world, machine=machine)
    weights = sum(4.0 * p.numel() for p in network.parameters()) / split
    learning = sum(4.0 * p.numel() for p in network.parameters() if p.requires_grad) / split
    B = train.batch_size // (world * train.accumulate)
    of_batch = {name: B * count for name, count in targets.items()}
    how = train.activation_checkpointing
    activations = activation_bytes(
        network.config, vocabulary, B=B, N=N, M=M, targets=of_batch, bf16=bf16, checkpointing=how
    )
    parts = {"parameters": weights, "gradients": learning, **kept_beside(train, learning)}
    if split > 1 or (on_gpu and world > 1):  # FSDP2, where replicas copy their shard, too
        parts["gathered"] = _gathered(network, size=2 if bf16 else 4)
    if not on_gpu:  # those of a GPU are in host memory
        parts["copies for checkpoints"] = checkpoint_bytes(train, network) / world
    return {**parts, "activations": sum(activations.values())}


def shortage(parts: Mapping[str, float], train: TrainConfig, memory: Memory | None = None) -> str:
    """A one-line warning if a run on CPUs, with `parts` per process, needs more memory than is free; otherwise "".

    `memory`: the machine's; None: this machine's. Raises ValueError if the run needs more than the machine has."""
    memory = memory or Memory.detect()
    need, activations = (local_world() * size for size in (sum(parts.values()), parts["activations"]))
    if need <= memory.free:
        return ""
    setting, remedy = f"train.batch_size={train.batch_size}", "raise train.accumulate (the same steps in smaller parts)"
    if train.activation_checkpointing != "full":
        remedy += ", set train.activation_checkpointing to full"
    if activations < need / 2:
        setting, remedy = "model", "choose a smaller one, or train on GPUs"
    said = f"{setting}: training takes about {gib(need)} of memory, of which activations take {gib(activations)}"
    if need > (1 + DOUBT) * (memory.most + memory.swap):
        raise ValueError(f"{said}, and there are {gib(memory.most)}; {remedy}")
    return f"{said}, and {gib(memory.free)} are free; if the system ends the run, {remedy}"


def _gathered(network: Transformer, *, size: int) -> float:
    """Bytes that FSDP2 gathers temporarily: a block, the next one, and a block's gradients before they are scattered;
    and from first to last use, the parameters outside the blocks, with their gradients."""

    def count(module: torch.nn.Module, *, learning: bool = False) -> float:
        return float(sum(p.numel() for p in module.parameters() if p.requires_grad or not learning))

    blocks = [*network.encoder, *network.decoder]
    outside = count(network) - sum(map(count, blocks))
    learning = count(network, learning=True) - sum(count(block, learning=True) for block in blocks)
    return 4 * (outside + learning) + max(map(count, blocks)) * (3 * size + 4)

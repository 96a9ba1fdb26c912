"""The cost of reducing gradients between two processes of one machine: no reduction, one flat buffer in shared memory
(as the trainer on CPUs) or sent by gloo, DDP, and FSDP2 on a (world, 1) mesh, in one run over the same batches of a
small model.

    torchrun --nproc-per-node=2 -m benchmarks.gradient_reduction
"""

from __future__ import annotations

import time

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from benchmarks.published import Samples
from fourm_engine.nn.config import ModelConfig
from fourm_engine.nn.transformer import Transformer
from fourm_engine.train.parallel import Gradients

STEPS, BATCH, TOKENS = 8, 4, 96
SHARED, GLOO = "one flat buffer, shared", "one flat buffer, sent"
CONFIG = ModelConfig(width=128, encoder_blocks=3, decoder_blocks=3, heads=4)


def prepare(how: str, model: Transformer) -> tuple[torch.nn.Module, Gradients | None]:
    """The model to call, and its gradients in one buffer if they are."""
    if how == "DDP":
        return DistributedDataParallel(model), None
    if how == "FSDP2":
        mesh = init_device_mesh("cpu", (dist.get_world_size(), 1), mesh_dim_names=("replicate", "shard"))
        for block in (*model.encoder, *model.decoder):
            fully_shard(block, mesh=mesh)
        return fully_shard(model, mesh=mesh), None
    gradients = Gradients(model, sharded=False)
    if how != SHARED:
        gradients.shared = None
    return model, gradients


def main() -> None:
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    samples, rng = Samples(tokens=TOKENS, side=8, shrink=16), np.random.default_rng(dist.get_rank())
    batches = [samples.batch(BATCH, rng) for _ in range(STEPS)]
    variants = {}
    for how in ("nothing shared", SHARED, GLOO, "DDP", "FSDP2"):
        torch.manual_seed(0)
        variants[how] = prepare(how, Transformer(CONFIG, samples.vocabulary))
    spent: dict[str, list[float]] = {how: [] for how in variants}
    for number, batch in enumerate(batches):
        for how, (model, gradients) in variants.items():  # interleaved, so that noise hits all alike
            dist.barrier()
            began = time.perf_counter()
            losses = model(batch)
            # Every table takes part, as the trainer's own loss sees to; a mean over modalities is enough here.
            sum(total / max(count, 1) for total, count in losses.values()).backward()
            if how in (SHARED, GLOO):
                assert gradients is not None
                gradients.reduce()
            dist.barrier()
            if number:  # the first warms up
                spent[how].append(time.perf_counter() - began)
            if gradients is not None:
                gradients.zero()
            else:
                model.zero_grad()
    if dist.get_rank() == 0:
        base = float(np.median(spent["nothing shared"]))
        for how, seconds in spent.items():
            median = float(np.median(seconds))
            print(f"{how:24} {1000 * median:7.1f} ms a step, {median / base:.2f} of nothing shared")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

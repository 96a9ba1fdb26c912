"""The cost of reducing gradients between two processes of one machine: no reduction, one flat buffer (as the trainer on
CPUs), DDP, and FSDP2 on a (world, 1) mesh, in one run over the same batches of a small model.

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

STEPS, BATCH, TOKENS = 8, 4, 96
CONFIG = ModelConfig(width=128, encoder_blocks=3, decoder_blocks=3, heads=4)


def prepare(how: str, model: Transformer) -> tuple[torch.nn.Module, torch.Tensor | None]:
    """The model to call, and the flat buffer of gradients if there is one."""
    if how == "DDP":
        return DistributedDataParallel(model), None
    if how == "FSDP2":
        mesh = init_device_mesh("cpu", (dist.get_world_size(), 1), mesh_dim_names=("replicate", "shard"))
        for block in (*model.encoder, *model.decoder):
            fully_shard(block, mesh=mesh)
        return fully_shard(model, mesh=mesh), None
    flat = torch.zeros(sum(p.numel() for p in model.parameters()))
    for parameter, part in zip(model.parameters(), flat.split([p.numel() for p in model.parameters()]), strict=True):
        parameter.grad = part.view_as(parameter)
    return model, flat


def main() -> None:
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    samples, rng = Samples(tokens=TOKENS, side=8, shrink=16), np.random.default_rng(dist.get_rank())
    batches = [samples.batch(BATCH, rng) for _ in range(STEPS)]
    variants = {}
    for how in ("nothing shared", "one flat buffer", "DDP", "FSDP2"):
        torch.manual_seed(0)
        variants[how] = prepare(how, Transformer(CONFIG, samples.vocabulary))
    spent: dict[str, list[float]] = {how: [] for how in variants}
    for number, batch in enumerate(batches):
        for how, (model, flat) in variants.items():  # interleaved, so that noise hits all alike
            dist.barrier()
            began = time.perf_counter()
            losses = model(batch)
            # Every table takes part, as the trainer's own loss sees to; a mean over modalities is enough here.
            sum(total / max(count, 1) for total, count in losses.values()).backward()
            if how == "one flat buffer":
                dist.all_reduce(flat)
            dist.barrier()
            if number:  # the first warms up
                spent[how].append(time.perf_counter() - began)
            if flat is not None:
                flat.zero_()
            else:
                model.zero_grad()
    if dist.get_rank() == 0:
        base = float(np.median(spent["nothing shared"]))
        for how, seconds in spent.items():
            median = float(np.median(seconds))
            print(f"{how:16} {1000 * median:7.1f} ms a step, {median / base:.2f} of nothing shared")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

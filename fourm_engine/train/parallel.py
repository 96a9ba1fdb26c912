"""Distributes a model over the processes of a run, with equal initial weights, and reduces its gradients.

On CPUs (and for small models) all gradients are views of one buffer, which is reduced at once, through shared memory
within a machine; for a small model on two processes this takes a fraction of the time of DDP or FSDP2
(benchmarks/gradient_reduction.py). On GPUs, FSDP2 overlaps its collectives with the backward pass.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from fourm_engine.device import local_world, on_host
from fourm_engine.nn.wrappers import checkpoint_blocks, compile_blocks, halve_residual
from fourm_engine.train.distributed import first_row, local, patience, together, world_size
from fourm_engine.train.shared_mean import SharedMean

if TYPE_CHECKING:
    from fourm_engine.train.config import TrainConfig
    from fourm_engine.train.task import MetaModel, Task

#: Types of devices whose autocast computes norms in fp32 even with weights gathered in bf16.
HALF_ON = ("cuda",)


def build_model(task: Task, config: TrainConfig, device: torch.device, *, seed: int, bf16: bool) -> nn.Module:
    """The model with its initial weights, in training mode, sharded according to `train.parallel`. If the task
    implements `Task.meta_model`, no process ever allocates more of the model than it keeps. Raises ValueError if the
    processes cannot be divided into copies of the model."""
    torch.manual_seed(seed)
    meta = together(lambda: task.meta_model(seed))
    model = together(lambda: task.model().to(device)) if meta is None else meta.model
    model.train()
    blocks = task.blocks(model)
    if bf16 and config.residual == "bf16":
        halve_residual(blocks)
    checkpoint_blocks(blocks, config.activation_checkpointing)
    if config.compile:
        compile_blocks(blocks)
    if meta is None:
        _agree(model)
    if is_sharded(config, device, blocks):
        _shard(model, blocks, device, copies=copies(config, world_size()), bf16=bf16, wait=patience(config.watchdog_s))
    if meta is not None:
        model.to_empty(device=device)
        together(lambda: _fill(meta))
        _agree(model)
    return model


def is_sharded(config: TrainConfig, device: torch.device, blocks: list[nn.Module]) -> bool:
    return world_size() > 1 and (config.parallel != "replicate" or (device.type == "cuda" and bool(blocks)))


def copies(config: TrainConfig, world: int, *, machine: int | None = None) -> int:
    """The number of copies of the model that `world` processes hold. `machine`: processes per machine; None: as on this
    one. Raises ValueError if `world` is not divisible."""
    if config.parallel == "replicate":
        return world
    over = world if config.parallel == "shard" else min(world, config.shard_over or machine or local_world())
    if world % over:
        raise ValueError(
            f"train.parallel=hybrid: {world} processes do not divide into copies over {over} each; set "
            f"train.shard_over to a divisor of {world}"
        )
    return world // over


def _fill(meta: MetaModel) -> None:
    for name, parameter in meta.model.named_parameters():
        meta.fill(name, local(parameter.detach()), first_row(parameter), len(parameter) if parameter.ndim else 1)
    meta.init_buffers()


def _agree(model: nn.Module) -> None:
    """Broadcast rank 0's weights and buffers: machines may draw different numbers, and FSDP2 shards the weights of each
    process without comparing them."""
    if world_size() == 1:
        return
    for tensor in (*model.parameters(), *model.buffers()):
        if not isinstance(tensor, DTensor):
            dist.broadcast(tensor.detach(), src=0)
        elif tensor.device_mesh.size(0) > 1:
            dist.broadcast(local(tensor.detach()), group=tensor.device_mesh.get_group(0), group_src=0)


def _shard(
    model: nn.Module, blocks: list[nn.Module], device: torch.device, *, copies: int, bf16: bool, wait: timedelta
) -> None:
    """FSDP2 over a (copies, shards) mesh, in place; on (world, 1) it equals DDP bit for bit. Under bf16 the blocks'
    weights are gathered in bf16, and all gradients reduced in fp32; the residual stream, embeddings and heads keep
    autocast's types."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(device.type, (copies, world_size() // copies), mesh_dim_names=("copies", "shards"))
    for group in mesh.get_all_groups():  # new groups do not inherit the timeout (NCCL: 10 minutes)
        dist.distributed_c10d._set_pg_timeout(wait, group)
    half = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    for block in blocks:
        fully_shard(block, mesh=mesh, mp_policy=half if bf16 and device.type in HALF_ON else MixedPrecisionPolicy())
    fully_shard(model, mesh=mesh)


class Gradients:
    """A model's gradients over all processes: accumulation, mean, norm. Those of replicas are views of one buffer; a
    single process uses none, since clearing it and adding to it takes a twentieth of a step with large tables."""

    def __init__(self, model: nn.Module, *, sharded: bool) -> None:
        self.model, self.sharded = model, sharded
        self._parameters = list(model.parameters())
        self._flat: Tensor | None = None
        self.shared: SharedMean | None = None
        if not sharded and world_size() > 1:
            self._flat, self.shared = _flatten(model)

    def zero(self) -> None:
        if self._flat is not None:
            self._flat.zero_()
            return
        for parameter in self._parameters:
            parameter.grad = None

    def communicate(self, last: bool) -> None:
        """Call before each forward pass. The backward pass reduces gradients only for the `last` micro-batch of a
        step."""
        if self.sharded:
            self.model.set_requires_gradient_sync(last)  # type: ignore[operator]

    def reduce(self) -> None:
        """Average the gradients over processes; call after the last backward pass. An unused parameter gets a zero
        gradient rather than None, so that the optimiser treats it the same on any number of processes."""
        if self._flat is None:
            for parameter in self._parameters:
                if parameter.requires_grad and parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
        elif self.shared is not None:
            self.shared.reduce()
        else:
            dist.all_reduce(self._flat)
            self._flat.div_(world_size())

    def norm(self) -> Tensor:
        """L2 norm of all gradients together, a scalar on the device."""
        if self._flat is not None:
            return self._flat.norm()
        total = torch.nn.utils.get_total_norm(self._parts())
        return total.full_tensor() if isinstance(total, DTensor) else total

    @torch.no_grad()
    def clip(self, norm: Tensor, most: float) -> None:
        """Scale the gradients to an L2 norm of `most` if their `norm` is larger, without synchronising."""
        if on_host(norm) and norm <= most:
            return
        factor = torch.where(norm > most, most / norm, 1.0)
        if self._flat is not None:
            self._flat.mul_(factor)
        elif parts := [local(part) for part in self._parts()]:
            torch._foreach_mul_(parts, factor)

    def _parts(self) -> list[Tensor]:
        return [p.grad for p in self._parameters if p.grad is not None]


def _flatten(model: nn.Module) -> tuple[Tensor, SharedMean | None]:
    """A zeroed buffer of which the parameters' gradients are views, so that reduction, norm and clipping take one call
    each; and its `SharedMean`, if it is in memory shared by the processes of a machine."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        return torch.zeros(0), None
    numbers, device, dtype = sum(p.numel() for p in parameters), parameters[0].device, parameters[0].dtype
    shared = SharedMean.open(numbers, dtype) if device.type == "cpu" else None
    flat = shared.buffer if shared is not None else torch.zeros(numbers, device=device, dtype=dtype)
    for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = part.view_as(parameter)
    return flat, shared

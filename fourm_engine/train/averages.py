"""The exponential moving average of a model (`Averages`), and restoring its buffers after a skipped step (`Buffers`).

In: a model after each step. Out: averaged tensors by name, for checkpoints, and the model with them swapped in;
buffers, such as a batch norm's running statistics, as before a skipped step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from fourm_engine.device import on_host
from fourm_engine.train.distributed import gather_json, local, sum_over_processes, world_size

if TYPE_CHECKING:
    from fourm_engine.train.task import Task


class Averages:
    """Moving averages of a model's parameters that require a gradient, and of its floating-point buffers (codebooks,
    running statistics) unless `Task.averages_buffer` excludes them. Integers and flags are the model's.

    The first update copies the weights, and update n after it decays by min(decay, (1 + n) / (10 + n)), like
    TensorFlow's `ExponentialMovingAverage`: the initial weights never enter the average, and a short run averages over
    a fraction of its steps."""

    def __init__(self, model: nn.Module, task: Task, decay: float) -> None:
        self.model, self.task, self.decay = model, task, decay
        kept = model.state_dict().keys()
        self._buffers = {
            name: buffer
            for name, buffer in model.named_buffers()
            if name in kept and buffer.is_floating_point() and task.averages_buffer(name)
        }
        self.tensors = {name: tensor.clone() for name, tensor in self._learning().items()}
        device = next((tensor.device for tensor in self.tensors.values()), torch.device("cpu"))
        self._number = torch.zeros((), dtype=torch.float64, device=device)

    @property
    def number(self) -> int:
        """Number of updates so far. Synchronises with the device."""
        return int(self._number)

    @number.setter
    def number(self, number: int) -> None:
        self._number.fill_(number)

    def _learning(self) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in self.model.named_parameters() if p.requires_grad} | self._buffers

    def restart(self) -> None:
        """Start from the model's current state."""
        self.number = 0
        for name, tensor in self._learning().items():
            self.tensors[name].copy_(tensor)

    @torch.no_grad()
    def update(self, taken: Tensor) -> None:
        """Update after a step, if it was `taken` (a bool on the device)."""
        current, n = self._learning(), self._number
        decay = ((1 + n) / (10 + n)).clamp(max=self.decay)
        weight = torch.where(taken, torch.where(n > 0, 1 - decay, 1.0), 0.0)
        averages = [local(tensor) for tensor in self.tensors.values()]
        weights = [weight.to(average.dtype) for average in averages]
        torch._foreach_lerp_(averages, [local(current[name]) for name in self.tensors], weights)
        self._number += taken
        self.task.after_average(self.model, self.tensors)

    @contextmanager
    def in_model(self) -> Iterator[None]:
        """Swap the averages into the model, and its own tensors back on exit."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        if isinstance(self.model, FSDPModule):
            self.model.reshard()  # the root keeps gathered weights after a forward pass without a backward one
        for name, tensor in self._learning().items():
            ours, other = local(tensor), local(self.tensors[name])
            held = ours.clone()
            ours.copy_(other)
            other.copy_(held)

    def state(self) -> dict[str, Tensor]:
        """The model's state dict, averaged. Tied weights appear under both names."""
        names = {id(p): name for name, p in self.model.named_parameters()}
        full = dict(self.model.state_dict(keep_vars=True))
        return {name: self.tensors.get(names.get(id(tensor), name), tensor).detach() for name, tensor in full.items()}


class Buffers:
    """Restores a model's buffers after a skipped step.

    Only the device knows whether a step is skipped, so buffers are copied before each step and restored on the device.
    Buffers that forward passes change are averaged over processes, since each sees different samples. The first step
    shows which these are; most models have none, and then later steps copy nothing unless the task changes buffers
    after each step (`learn`)."""

    def __init__(self, model: nn.Module, *, learn: bool) -> None:
        self._buffers = dict(model.named_buffers())
        self._learn = learn
        self._forward: list[str] | None = None
        self._copies: dict[str, Tensor] = {}

    def snapshot(self) -> None:
        """Call before the forward passes of a step."""
        names = self._buffers if self._learn or self._forward is None else self._forward
        self._copies = {name: self._buffers[name].clone() for name in names}

    def note_changes(self) -> None:
        """Call after the forward passes of a step, in every process."""
        if self._forward is not None:
            return
        # Compare values: batch norms change their buffers without increasing `_version`.
        changed = [name for name, buffer in self._buffers.items() if not torch.equal(buffer, self._copies[name])]
        everywhere = {name for names in gather_json(changed) for name in names}
        self._forward = [name for name in self._buffers if name in everywhere]
        if not self._learn:
            self._copies = {name: self._copies[name] for name in self._forward}

    @torch.no_grad()
    def average(self) -> None:
        """Make the buffers that forward passes changed equal in all processes: floats become the mean; integers, such
        as the number of batches seen, those of rank 0."""
        if world_size() == 1:
            return
        for name in self._forward or ():
            if (buffer := self._buffers[name]).is_floating_point():
                sum_over_processes(buffer).div_(world_size())
            else:
                dist.broadcast(buffer, src=0)

    @torch.no_grad()
    def undo_unless(self, taken: Tensor) -> None:
        """Restore the buffers if the step was not `taken` (a bool on the device)."""
        if on_host(taken) and taken:
            return
        for name, copy in self._copies.items():
            self._buffers[name].copy_(torch.where(taken, self._buffers[name], copy))

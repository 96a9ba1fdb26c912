"""Averages, an exponential moving average of a model, which is evaluated and exported; and ForwardBuffers, what a
forward pass changes of a model, such as running statistics of a batch norm.

In: a model after each step. Out: averaged tensors by name, for checkpoints, and the model with them swapped in; buffers
as before a skipped step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from fourm_engine.train.distributed import gather_json, local, sum_over_processes, world_size

if TYPE_CHECKING:
    from fourm_engine.train.task import Task


class Averages:
    """Of everything in a model's state that learns: parameters that require a gradient, and floating-point buffers
    (codebooks, running statistics) but for those that `Task.averages` leaves out. Integers and flags stay the model's.

    The first update takes the weights as they are, and update n after it decays by min(decay, (1 + n) / (10 + n)), as
    TensorFlow's `ExponentialMovingAverage` does: nothing of the initial weights is ever in the average, and a short run
    averages over a share of its steps. `number`: updates so far."""

    def __init__(self, model: nn.Module, task: Task, decay: float) -> None:
        self.model, self.task, self.decay, self.number = model, task, decay, 0
        kept = model.state_dict().keys()
        self._buffers = {
            name: buffer
            for name, buffer in model.named_buffers()
            if name in kept and buffer.is_floating_point() and task.averages(name)
        }
        self.tensors = {name: tensor.clone() for name, tensor in self._learning().items()}

    def _learning(self) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in self.model.named_parameters() if p.requires_grad} | self._buffers

    def restart(self) -> None:
        """Start from the model's current state."""
        self.number = 0
        for name, tensor in self._learning().items():
            self.tensors[name].copy_(tensor)

    @torch.no_grad()
    def update(self) -> None:
        """Update after a step that was not skipped."""
        current = self._learning()
        decay = min(self.decay, (1 + self.number) / (10 + self.number)) if self.number else 0.0
        averages = [local(tensor) for tensor in self.tensors.values()]
        torch._foreach_lerp_(averages, [local(current[name]) for name in self.tensors], 1 - decay)
        self.number += 1
        self.task.after_average(self.model, self.tensors)

    @contextmanager
    def in_model(self) -> Iterator[None]:
        """The model with its averages swapped in; afterwards its tensors are restored."""
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


class ForwardBuffers:
    """A skipped step must leave no trace, but its forward passes have already run: buffers are copied before each step
    and restored if it is skipped. Otherwise they become the mean over processes, since each saw other samples. The
    first step shows which change; in most models none do, and later steps copy nothing."""

    def __init__(self, model: nn.Module) -> None:
        self._candidates = dict(model.named_buffers())
        self._known = False
        self._copies: dict[str, Tensor] = {}

    def before(self) -> None:
        """Before the forward passes of a step."""
        self._copies = {name: buffer.clone() for name, buffer in self._candidates.items()}

    def after(self) -> None:
        """After the forward passes of a step, in every process."""
        if self._known:
            return
        # Values, since batch norms change theirs without a new `_version`.
        changed = [name for name, buffer in self._candidates.items() if not torch.equal(buffer, self._copies[name])]
        everywhere = {name for names in gather_json(changed) for name in names}
        self._candidates = {name: buffer for name, buffer in self._candidates.items() if name in everywhere}
        self._copies = {name: self._copies[name] for name in self._candidates}
        self._known = True

    @torch.no_grad()
    def restore(self) -> None:
        """Restore the buffers of a skipped step."""
        for name, buffer in self._candidates.items():
            buffer.copy_(self._copies[name])

    @torch.no_grad()
    def average(self) -> None:
        """After a step that was taken: floats become the mean over processes; counts of passes, the first process's."""
        if world_size() == 1:
            return
        for buffer in self._candidates.values():
            if buffer.is_floating_point():
                sum_over_processes(buffer).div_(world_size())
            else:
                dist.broadcast(buffer, src=0)

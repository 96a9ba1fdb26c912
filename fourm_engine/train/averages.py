"""Averages: an exponential moving average of a model during training, which is evaluated and exported.

In: a model after each step that was taken. Out: averaged tensors by name, for checkpoints, and the model with them
swapped in.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from fourm_engine.train.distributed import local

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

"""ForwardBuffers: the buffers that a forward pass changes, such as a batch norm's running statistics.

A step that is skipped must leave no trace, and its forward passes ran before anyone knew. So these buffers are copied
before each step and put back where it is skipped; over several processes, each of which saw its own samples, they
become the mean of all after a step that was taken.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fourm_engine.train.distributed import gather_json, sum_over_processes, world_size


class ForwardBuffers:
    """Which buffers they are shows in the first step; most models have none, and then nothing is copied any more."""

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
        """The step is skipped."""
        for name, buffer in self._candidates.items():
            buffer.copy_(self._copies[name])

    @torch.no_grad()
    def average(self) -> None:
        """The step was taken: the mean over processes; of integers, which count passes, the first process's."""
        if world_size() == 1:
            return
        for buffer in self._candidates.values():
            if buffer.is_floating_point():
                sum_over_processes(buffer).div_(world_size())
            else:
                dist.broadcast(buffer, src=0)

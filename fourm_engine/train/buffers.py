"""ForwardBuffers: the buffers that a forward pass changes, such as running statistics of a batch norm.

A skipped step must leave no trace, but its forward passes have already run. So these buffers are copied before each
step and restored if it is skipped. Otherwise they become the mean over all processes, since each saw other samples.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fourm_engine.train.distributed import gather_json, sum_over_processes, world_size


class ForwardBuffers:
    """The first step shows which buffers change; in most models none do, and later steps copy nothing."""

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

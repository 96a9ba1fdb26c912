"""SharedMean: the mean of a CPU buffer over the processes of one machine, in memory that they share.

In: the size of the buffer. Out: a buffer, and `reduce`, after which it holds the mean in every process. Sending the
gradients of a small model through sockets, as gloo does, takes two processes more than twice the processor time, and as
long as a tenth of a step.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress

import torch
import torch.distributed as dist
from torch import Tensor

from fourm_engine.device import local_world
from fourm_engine.train.distributed import gather_json, rank, world_size

#: Where files are memory. Elsewhere than on Linux there is no such folder.
MEMORY = "/dev/shm"


class SharedMean:
    """`buffer` is this process's; `reduce` replaces it by the mean of the buffers of all processes. Each process sums
    one slice, in the order of ranks, for all of them, so that all have the same numbers."""

    def __init__(self, buffers: list[Tensor]) -> None:
        self.buffer = buffers[rank()]
        self._slices = [whole.tensor_split(len(buffers))[rank()] for whole in buffers]

    @classmethod
    def open(cls, numbers: int, dtype: torch.dtype) -> SharedMean | None:
        """Of zeros. None where processes are on several machines or do not see each other's memory, where there is only
        one, and where there is no memory to share. Every process must call it."""
        world = world_size()
        if world == 1 or not numbers or gather_json(local_world()) != [world] * world:
            return None
        path = _reserve(numbers * dtype.itemsize)
        paths = gather_json(path)
        try:
            # Containers on one machine may each have a folder of this name; opening what is not there would make it.
            if not all(gather_json(all(map(os.path.exists, paths)))):
                return None
            opened = []
            with suppress(RuntimeError):
                opened = [torch.from_file(each, shared=True, size=numbers, dtype=dtype) for each in paths]
            return cls(opened) if all(gather_json(bool(opened))) else None
        finally:
            if path:  # the memory lasts as long as it is mapped
                os.unlink(path)

    def reduce(self) -> None:
        """Every process must call it."""
        dist.barrier()
        first, *others = self._slices
        for other in others:
            first.add_(other)
        first.div_(len(self._slices))
        for other in others:
            other.copy_(first)
        dist.barrier()


def _reserve(size: int) -> str:
    """A new file of zeros in memory, which is there in full: writing to one that is not ends a process. "" if there is
    no room."""
    try:
        handle, path = tempfile.mkstemp(prefix="fourm-", dir=MEMORY)
    except OSError:
        return ""
    try:
        os.posix_fallocate(handle, 0, size)
        return path
    except OSError:
        with suppress(OSError):
            os.unlink(path)
        return ""
    finally:
        os.close(handle)

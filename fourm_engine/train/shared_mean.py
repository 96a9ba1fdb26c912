"""SharedMean: the mean of a CPU buffer over the processes of one machine, in memory that they share.

In: the size of the buffer. Out: a buffer, and `reduce`, after which it holds the mean in every process. Sending the
gradients of a small model through sockets, as gloo does, takes two processes more than twice the processor time, and as
long as a tenth of a step.
"""

from __future__ import annotations

import os
import sys
from uuid import uuid4

import torch
import torch.distributed as dist
from torch import Tensor

from fourm_engine.device import local_world
from fourm_engine.train.distributed import OtherProcess, describe, gather_json, rank, together, world_size


class SharedMean:
    """`buffer` is this process's; `reduce` replaces it by the mean of the buffers of all processes. Each process sums
    one slice, in the order of ranks, for all of them, so that all have the same numbers."""

    def __init__(self, buffers: list[Tensor]) -> None:
        self.buffer = buffers[rank()]
        self._slices = [whole.tensor_split(len(buffers))[rank()] for whole in buffers]

    @classmethod
    def open(cls, numbers: int, dtype: torch.dtype) -> SharedMean | None:
        """Of zeros. None for one process, on several machines, and elsewhere than on Linux; also where processes do not
        see each other's memory or there is no room, of which the first one prints a line. Every process must call it.
        """
        world = world_size()
        if world == 1 or not numbers or gather_json([local_world(), sys.platform]) != [[world, "linux"]] * world:
            return None
        try:
            # Memory without a name in any folder: /dev/shm may be small, and a killed process would leave files there.
            handle = together(lambda: os.memfd_create(f"fourm-{uuid4().hex}"))
            try:
                # Reserved in full: writing to memory that is not there would end the process.
                together(lambda: os.posix_fallocate(handle, 0, numbers * dtype.itemsize))
                path = f"/proc/{os.getpid()}/fd/{handle}"
                every = gather_json([path, os.readlink(path)])
                return cls(together(lambda: [_mapped(*one, numbers=numbers, dtype=dtype) for one in every]))
            finally:
                os.close(handle)  # the memory lasts as long as it is mapped
        # AttributeError: a Python that was built for an older Linux has no memfd_create.
        except (OSError, RuntimeError, AttributeError, OtherProcess) as error:
            if rank() == 0:
                print(f"no memory to share; gradients take the slower way: {describe(error)}", file=sys.stderr)
            return None

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


def _mapped(path: str, name: str, *, numbers: int, dtype: torch.dtype) -> Tensor:
    """The memory of a process of this machine. Raises OSError if it cannot be seen."""
    # In containers, processes have the same ids: what is there may be something else.
    if os.readlink(path) != name:
        raise OSError(f"{path} is not {name}; the processes run in different containers")
    return torch.from_file(path, shared=True, size=numbers, dtype=dtype)

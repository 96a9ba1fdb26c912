"""Which of the processes that torchrun started this one is, and which device it computes on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Machine:
    """What there is to compute on; `memory` and `gpu_memory` in GiB, '' and 0 without a GPU."""

    cores: int
    memory: float
    gpu: str = ""
    gpu_memory: float = 0.0

    @classmethod
    def here(cls) -> Machine:
        import torch

        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        if not torch.cuda.is_available():
            return cls(cores, memory)
        properties = torch.cuda.get_device_properties(0)
        return cls(cores, memory, properties.name, properties.total_memory / 2**30)

    def __str__(self) -> str:
        words = f"{self.cores} CPU core{'s' * (self.cores > 1)}, {self.memory:.0f} GiB of memory"
        return f"{words}, {self.gpu} with {self.gpu_memory:.0f} GiB" if self.gpu else f"{words}, no GPU"


def rank_and_world() -> tuple[int, int]:
    """(rank, number of processes) from the environment; no process group is joined. (0, 1) outside torchrun."""
    return _number("RANK", 0), _number("WORLD_SIZE", 1)


def local_rank() -> int:
    """The rank of this process on its machine; 0 outside torchrun."""
    return _number("LOCAL_RANK", 0)


def local_world() -> int:
    """The processes on this machine; 1 outside torchrun."""
    return max(1, _number("LOCAL_WORLD_SIZE", 1))


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else default


def local_device() -> torch.device:
    """The GPU of this process, or the CPU where there is none."""
    import torch

    return torch.device("cuda", local_rank()) if torch.cuda.is_available() else torch.device("cpu")


def choose_device(device: torch.device | str | None) -> torch.device:
    """`device`; for None a GPU if there is one, else the CPU. Raises ValueError, one line, for one that is missing."""
    import torch

    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not isinstance(device, (str, torch.device)):
        raise ValueError(f"device is a torch.device or its name, such as 'cpu' or 'cuda'; given: {device!r:.80}")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # backends raise different errors
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"device {str(device)!r} cannot be used here: {reason:.200}") from None
    if chosen.type == "meta":
        raise ValueError("device 'meta' holds no numbers; choose 'cpu' or 'cuda'")
    return chosen

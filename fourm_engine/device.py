"""This process: its rank under torchrun, its device, and its number of threads."""

from __future__ import annotations

import ctypes
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


#: Parameters of glibc's mallopt: the threshold above which allocations are mapped individually; the free bytes kept at
#: the top of the heap (-1: all); the minimum bytes by which the heap grows.
_MMAP_MAX, _TRIM_THRESHOLD, _TOP_PAD = -4, -1, -2
#: Maximum work of one pass that `fastest_threads` times.
PROBE_FLOPS = 1 << 29


#: Device types whose memory the host reads without synchronisation.
HOST_TYPES = ("cpu",)


#: Mount points of control groups on Linux: of version 2, and of version 1 for memory, each with the file of a group's
#: limit.
_GROUPS = (("", "", "memory.max"), ("memory", "memory", "memory.limit_in_bytes"))


#: Programs that start the processes of a job and leave RANK and WORLD_SIZE to the user: their variables with the number
#: of processes, the number of this one, and that on its machine.
_LAUNCHERS = {
    "srun": ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID"),
    "mpirun": ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"),
    "mpiexec": ("PMI_SIZE", "PMI_RANK", "MPI_LOCALRANKID"),
}


@dataclass(frozen=True)
class Memory:
    """Bytes that the processes of this machine may use in total, additional swap, and the free amount of both."""

    most: int
    swap: int
    free: int

    @classmethod
    def detect(cls, root: Path = Path("/")) -> Memory:
        """The memory of this machine; `most` respects the limit of the container or the Slurm job, if there is one."""
        words = [line.split() for line in _text(root / "proc/meminfo").splitlines()]
        table = {key.rstrip(":"): 1024 * int(number) for key, number, *_ in words}
        most = table.get("MemTotal") or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        most = min([most, *_limits(root)])
        free = min(table.get("MemAvailable", most), most) + table.get("SwapFree", 0)
        return cls(most, table.get("SwapTotal", 0), free)


def _limits(root: Path) -> list[int]:
    """The byte limits of the control groups of this process."""
    limits = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, kinds, group = line.split(":", 2)
        for kind, folder, file in _GROUPS:
            if kind in kinds.split(","):
                path = Path(group.lstrip("/"))
                texts = [_text(root / "sys/fs/cgroup" / folder / part / file) for part in (path, *path.parents)]
                limits += [int(text) for text in texts if text.strip().isdecimal()]
    return limits


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


@dataclass(frozen=True)
class Machine:
    """The hardware; `memory` and `gpu_memory` in GiB, '' and 0 without a GPU."""

    cores: int
    memory: float
    gpu: str = ""
    gpu_memory: float = 0.0

    @classmethod
    def detect(cls) -> Machine:
        import torch

        cores = usable_cores()
        memory = Memory.detect().most / 2**30
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


class LaunchError(ValueError):
    """The variables that tell a process its rank do not fit together."""

    reported = False  # whether another process reports it


def check_launch() -> None:
    """Check the variables of `rank_and_world` and `local_rank`: processes that are each told a part would all train
    alone, or wait for others that do not exist. Raises LaunchError, one line with the remedy."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    rank, world, local, _ = texts = [os.environ.get(name, "") for name in names]
    remedy = "start the processes with torchrun, which sets all of them, or unset them for one process"
    for name, text in zip(names, texts, strict=True):
        if text and not text.isdecimal():
            raise LaunchError(f"{name}={text!r:.40} is not a number; {remedy}")
    if not world and (rank or _number("LOCAL_RANK", 0)):
        raise LaunchError(f"{f'RANK={rank}' if rank else f'LOCAL_RANK={local}'} without WORLD_SIZE; {remedy}")
    if _number("WORLD_SIZE", 1) > 1 and not rank:
        raise LaunchError(f"WORLD_SIZE={world} without RANK; {remedy}")
    if world and _number("RANK", 0) >= int(world):
        raise LaunchError(f"RANK={rank or 0} is not below WORLD_SIZE={world}; {remedy}")
    if world:
        return
    for program, (tasks, task, here) in _LAUNCHERS.items():
        if (number := _number(tasks, 1)) > 1:
            error = LaunchError(
                f"{program} started {number} processes without RANK and WORLD_SIZE, so that each would work alone; let "
                f"each run: export RANK=${task} LOCAL_RANK=${here} WORLD_SIZE={number} MASTER_ADDR=… MASTER_PORT=… "
                f"(see examples/paper/slurm.sh), or WORLD_SIZE=1 for separate commands"
            )
            error.reported = _number(task, 0) > 0
            raise error


def local_world() -> int:
    """The number of processes on this machine; 1 outside torchrun."""
    return max(1, _number("LOCAL_WORLD_SIZE", 1))


def usable_cores() -> int:
    """Number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass
class _Threads:
    """The last setting of `settle_threads`, and its reason."""

    measured: int = 0
    line: str = ""


_threads = _Threads()


def settle_threads(number: int | None = None, *, width: int = 128) -> str:
    """Let torch compute with `number` CPU threads. None: as many as OMP_NUM_THREADS (or MKL_NUM_THREADS) says, or if
    that is unset, as many as are fastest now, measured once per process, in a quarter of a second. Threads wait for
    each other, so that with another job on the machine many can be far slower than one.

    width: of the activations to compute with, roughly.

    Returns a line for the log; "" if nothing has changed since the last call."""
    import torch

    variable = next((name for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if os.environ.get(name)), None)
    if number is not None:
        why = "set"
    elif variable is not None:
        number, why = _number(variable, torch.get_num_threads()), variable
    else:
        cores = usable_cores()
        _threads.measured = _threads.measured or fastest_threads(max(1, cores // local_world()), width=width)
        load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
        number, why = _threads.measured, f"measured: {cores} core{'s' * (cores > 1)}{load}"
    if number != torch.get_num_threads():
        torch.set_num_threads(number)
    line = f"{number} CPU thread{'s' * (number > 1)} ({why})"
    said, _threads.line = _threads.line, line.partition(", load")[0]
    return "" if said == _threads.line else line


def keep_memory() -> None:
    """Let this process keep the memory that it frees. A step on a CPU frees gigabytes, which glibc returns to the
    system and requests again page by page, each cleared by the kernel, in the next step. Has no effect with other C
    libraries, or if the environment configures glibc's allocator (MALLOC_…, GLIBC_TUNABLES)."""
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return
    with suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_TOP_PAD, 1 << 26)):
            mallopt(parameter, value)


def fastest_threads(most: int, *, width: int) -> int:
    """The number of threads, of 1, 2, 4, … up to `most`, beyond which the speedup is below a tenth, for the forward and
    backward pass of a transformer's MLP on activations of that width."""
    import torch

    width = min(width, 2048)
    rows = max(16, min(1024, PROBE_FLOPS // (48 * width * width)))
    x = torch.randn(rows, width, generator=torch.Generator().manual_seed(0))
    up, down = (torch.full((width, 4 * width), 0.01, requires_grad=True) for _ in range(2))

    @torch.enable_grad()
    def seconds(threads: int) -> float:
        torch.set_num_threads(threads)
        began, passes = time.perf_counter(), 0
        while passes < 1 or time.perf_counter() - began < 0.02:
            y = torch.nn.functional.layer_norm(x, (width,))
            for _ in range(2):
                y = torch.nn.functional.layer_norm(y + torch.nn.functional.gelu(y @ up) @ down.T, (width,))
            torch.autograd.grad(y.square().sum(), (up, down))
            passes += 1
        return (time.perf_counter() - began) / passes

    before, best = torch.get_num_threads(), 1
    try:
        seconds(1)  # warm-up: kernels are selected, memory is allocated
        while best < most:
            more = min(2 * best, most)
            few = many = 0.0
            for _ in range(3):
                few, many = few + seconds(best), many + seconds(more)
                if many > 0.9 * few:  # at the first sign of contention: on a busy machine measuring is slow, too
                    return best
            best = more
    finally:
        torch.set_num_threads(before)
    return best


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else default


def local_device() -> torch.device:
    """The GPU of this process, or the CPU if there is none."""
    import torch

    return torch.device("cuda", local_rank()) if torch.cuda.is_available() else torch.device("cpu")


def on_host(tensor: torch.Tensor) -> bool:
    """Whether the host can read a tensor without synchronising with a device."""
    return tensor.device.type in HOST_TYPES


def to_device(numbers: Any, device: torch.device) -> torch.Tensor:
    """An array, or a list of numbers, as a tensor on the device, without synchronising with it."""
    import numpy as np
    import torch

    tensor = torch.from_numpy(np.asarray(numbers))
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


def choose_device(device: torch.device | str | None) -> torch.device:
    """`device`; for None a GPU if there is one, else the CPU. Raises ValueError, one line, for a missing one."""
    import torch

    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not isinstance(device, (str, torch.device)):
        raise ValueError(f"device is a torch.device or its name, such as 'cpu' or 'cuda'; given: {device!r:.80}")
    try:
        if str(device).partition(":")[0] not in ("cpu", "cuda", "mps", "xpu", "meta"):
            raise RuntimeError("choose cpu, cuda or a number of it, such as cuda:1")
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # backends raise different errors
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"device {str(device)!r} cannot be used here: {reason:.200}") from None
    if chosen.type == "meta":
        raise ValueError("device 'meta' holds no numbers; choose 'cpu' or 'cuda'")
    return chosen

"""Processes and devices: joining the process group of torchrun, and small collectives on the host."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from fourm_engine.device import keep_memory, local_rank, rank_and_world, settle_threads
from fourm_engine.files import words_of
from fourm_engine.train.rendezvous import LATE, join
from fourm_engine.train.stopping import STOPS
from fourm_plugins.errors import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fourm_engine.train.config import TrainConfig


T = TypeVar("T")
#: Remedies of `check_same`.
PACKAGES = "install the same plugins and packages on every machine"
SETTINGS = "start every process with the same config and overrides"
FILES = "give every process the same files: one shared folder, or equal copies"
#: Timeout of collectives during work that the watchdog does not bound: an export, pictures, a slow disk.
PATIENCE = timedelta(hours=2)
#: Exit code -> name of the signal that a command ends by.
_STOPS = {128 + number: number.name for number in STOPS}


class RankMismatch(ValueError):
    """Processes of one run are set up differently. All of them raise it, and the first reports it."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.reported = rank() > 0


class OtherProcess(ValueError):
    """Another process failed in a collective action; the message contains its rank and error."""


@contextmanager
def processes(config: TrainConfig, *, width: int = 128) -> Iterator[torch.device]:
    """Join torchrun's process group (if any), set and log the number of CPU threads for a network of this `width`, and
    yield this process's device. Raises ValueError if a GPU is requested and there is none, or if the processes do not
    meet."""
    if config.device == "cuda" and not torch.cuda.is_available():
        hidden = " (CUDA_VISIBLE_DEVICES hides all)" if os.environ.get("CUDA_VISIBLE_DEVICES") == "" else ""
        raise ValueError(f"train.device is 'cuda' but torch sees no GPU{hidden}; set it to 'auto' or 'cpu'")
    on_gpu = config.device != "cpu" and torch.cuda.is_available()
    index = local_rank()
    if on_gpu and index >= torch.cuda.device_count():
        raise ValueError(
            f"process {index} of this machine has no GPU, torch sees {torch.cuda.device_count()}; start as many "
            f"processes as there are GPUs (--nproc-per-node), let each see all of them (srun --gpus-per-node, not "
            f"--gpus-per-task), or set train.device to 'cpu'"
        )
    if on_gpu and rank_and_world()[1] > 1 and not os.environ.get("LOCAL_RANK") and torch.cuda.device_count() > 1:
        raise ValueError(
            f"LOCAL_RANK is not set, so that all processes of this machine would take the first of its "
            f"{torch.cuda.device_count()} GPUs; set it to 0, 1, … (srun: LOCAL_RANK=$SLURM_LOCALID)"
        )
    device = torch.device("cuda", index) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high" if config.tf32 else "highest")
    else:
        keep_memory()
    note = settle_threads(config.threads, width=width) if not on_gpu or config.threads is not None else ""
    if note and rank_and_world()[0] == 0:
        print(note, file=sys.stderr, flush=True)
    joins = rank_and_world()[1] > 1 and not dist.is_initialized()
    if joins:
        backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
        join(backend, meeting=meeting_time(config.watchdog_s), timeout=patience(config.watchdog_s))
    try:
        yield device
    finally:
        if joins:
            dist.destroy_process_group()


def patience(watchdog_s: float | None) -> timedelta:
    """Timeout of torch's collectives: longer than the watchdog's, which names the cause. NCCL's default of 10 minutes
    would end runs that merely wait."""
    return max(PATIENCE, timedelta(seconds=2 * watchdog_s)) if watchdog_s is not None else timedelta(days=7)


def meeting_time(watchdog_s: float | None) -> timedelta:
    """How long processes wait for each other to join: longer than the watchdog, which names one that never started."""
    return timedelta(seconds=max(LATE, watchdog_s) + 60) if watchdog_s is not None else patience(None)


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Sum `tensor` over all processes in place, on its device, and return it. Every process must call it."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


class _GatheredRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (grad,) = grads
        return sum_over_processes(grad.contiguous().clone()).chunk(world_size())[rank()]


def gather_rows(rows: Tensor) -> Tensor:
    """The rows of all processes, equally many, in rank order, on the device. Differentiable: the gradient is that of
    the sum of all processes' losses. Every process must call it."""
    return cast("Tensor", _GatheredRows.apply(rows)) if world_size() > 1 else rows


def sum_numbers(numbers: list[float]) -> list[float]:
    """Sum numbers on the host over all processes, in float64. Every process must call it."""
    if world_size() == 1:
        return numbers
    return sum_over_processes(torch.tensor(numbers, dtype=torch.float64)).tolist()


def gather_json(value: Any, group: dist.ProcessGroup | None = None) -> list[Any]:
    """The `value` of every process, in rank order. Sent as JSON, so that nothing from another machine is unpickled."""
    if world_size() == 1:
        return [value]
    text = json.dumps(value, sort_keys=True).encode()
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(world_size())]
    dist.all_gather(sizes, torch.tensor([len(text)]), group=group)
    longest = max(1, max(int(size) for size in sizes))
    padded = torch.frombuffer(bytearray(text.ljust(longest)), dtype=torch.uint8)
    texts = [torch.empty(longest, dtype=torch.uint8) for _ in range(world_size())]
    dist.all_gather(texts, padded, group=group)
    return [json.loads(bytes(part.tolist())) for part in texts]


def together(action: Callable[[], T], group: dist.ProcessGroup | None = None) -> T:
    """Run `action` in every process and return its result. If it raises in any process, all raise, so that none waits
    for one that has ended: that process its exception, the others `OtherProcess` with its rank and message."""
    result, caught = attempt(action)
    try:
        errors = gather_json(None if caught is None else describe(caught), group)
    except RuntimeError:  # another process has ended; this one's exception is the cause, or as good as any
        if caught is not None:
            raise caught from None
        raise
    if caught is not None:
        raise caught
    for number, words in enumerate(errors):
        if words is not None:
            raise OtherProcess(f"rank {number}: {words}")
    return cast("T", result)


def attempt(action: Callable[[], T]) -> tuple[T | None, BaseException | None]:
    """(result, exception) of `action`, Ctrl-C included."""
    try:
        return action(), None
    except BaseException as error:
        return None, error


def describe(error: BaseException) -> str:
    """The error in one line: its message, preceded by the type unless it is an error for users; of a signal, its
    name."""
    if isinstance(error, KeyboardInterrupt):
        return "stopped by SIGINT"
    if isinstance(error, SystemExit):
        name = _STOPS.get(error.code) if isinstance(error.code, int) else None
        return f"exit code {error.code}" if name is None else f"stopped by {name}"
    words = words_of(error) if isinstance(error, OSError) else one_line(error)
    if words and isinstance(error, (ValueError, OSError)):
        return words
    return f"{type(error).__name__}: {words}".rstrip(": ")


def check_same(facts: Mapping[str, Any], remedy: str) -> None:
    """Check that `facts`, as JSON, are equal in every process. Raises RankMismatch, naming the rank, the keys that
    differ, and the remedy."""
    first, *others = gather_json(dict(facts))
    for number, other in enumerate(others, start=1):
        keys = [key for key in sorted(first.keys() | other.keys()) if first.get(key) != other.get(key)]
        if keys:
            shown = "; ".join(f"{key}: {first.get(key)!r:.80} in rank 0, {other.get(key)!r:.80}" for key in keys[:3])
            raise RankMismatch(
                f"rank {number} differs from rank 0 in {', '.join(keys)} ({shown} in rank {number}); {remedy}"
            )


def local(tensor: Tensor) -> Tensor:
    """This process's shard of a DTensor, sharing its memory; any other tensor unchanged."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def first_row(tensor: Tensor) -> int:
    """Index of the first row of this process's shard. FSDP2 shards dimension 0 like torch.chunk, over the last
    dimension of a (copies, shards) mesh."""
    if not isinstance(tensor, DTensor):
        return 0
    chunk = -(-len(tensor) // tensor.device_mesh.size(1))
    return min(len(tensor), chunk * tensor.device_mesh.get_local_rank(1))


def gathered(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The full tensors of a possibly sharded state dict, on the CPU, in rank 0; {} in the other processes."""
    full = {}
    for name, tensor in state.items():
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if rank() == 0:
            full[name] = whole.detach().to("cpu", copy=True)
    return full


def seed_of(seed: int, step: int, process: int) -> int:
    """The seed of a process for one step; process -1 is for draws that all processes share."""
    return int(np.random.SeedSequence([seed, step, process + 1]).generate_state(1, np.uint64)[0] >> 1)


def seed_generators(seed: int, device: torch.device) -> None:
    """`torch.manual_seed` for the CPU and `device` only: for every other kind of device torch formats a stack trace,
    which takes up to a millisecond."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)

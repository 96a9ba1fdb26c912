"""Processes and devices: joining those started by torchrun, small reductions on the host, reducing gradients.

On CPUs (and for small models) all gradients lie in one buffer that is reduced at once, which costs a small model on two
processes a fraction of what DDP or FSDP2 do (benchmarks/gradient_reduction.py). On GPUs FSDP2 overlaps its
collectives with the backward pass.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from fourm_engine.device import local_rank, rank_and_world, settle_threads

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fourm_engine.train.config import TrainConfig
    from fourm_engine.train.task import Task


T = TypeVar("T")


class RankMismatch(ValueError):
    """Processes of one run are set up differently."""


class OtherProcess(ValueError):
    """Another process failed at a common task; the message has its rank and error."""


@contextmanager
def processes(config: TrainConfig, *, width: int = 128) -> Iterator[torch.device]:
    """Join the processes that torchrun started (nothing to join for one) and yield this one's device; choose the CPU
    threads for a network of that `width`, which one line on stderr says.

    Raises ValueError if a GPU is requested and there is none."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("train.device is 'cuda' but torch sees no GPU; set it to 'auto' or 'cpu'")
    on_gpu = config.device != "cpu" and torch.cuda.is_available()
    index = local_rank()
    if on_gpu and index >= torch.cuda.device_count():
        raise ValueError(
            f"process {index} of this machine has no GPU, torch sees {torch.cuda.device_count()}; start as many "
            f"processes as there are GPUs (--nproc-per-node), or set train.device to 'cpu'"
        )
    device = torch.device("cuda", index) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    said = settle_threads(config.threads, width=width) if not on_gpu or config.threads is not None else ""
    if said and rank_and_world()[0] == 0:
        print(said, file=sys.stderr, flush=True)
    join = rank_and_world()[1] > 1 and not dist.is_initialized()
    if join:
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
    try:
        yield device
    finally:
        if join:
            dist.destroy_process_group()


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Sum `tensor` over all processes in place, on its device, and return it. Every process must call it."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def sum_numbers(numbers: list[float]) -> list[float]:
    """The same on the host, in float64."""
    if world_size() == 1:
        return numbers
    return sum_over_processes(torch.tensor(numbers, dtype=torch.float64)).tolist()


def gather_json(value: Any, group: dist.ProcessGroup | None = None) -> list[Any]:
    """`value` of every process, in rank order, sent as JSON: data of another machine is never unpickled."""
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
    """The result of `action`. If it raises in any process, all raise, so that none waits for one that has ended: the
    exception where it occurred, `OtherProcess` with its rank and message elsewhere. Every process must call it."""
    result, caught = attempt(action)
    errors = gather_json(None if caught is None else describe(caught), group)
    if caught is not None:
        raise caught
    for number, words in enumerate(errors):
        if words is not None:
            raise OtherProcess(f"rank {number}: {words}")
    return cast("T", result)


def attempt(action: Callable[[], T]) -> tuple[T | None, BaseException | None]:
    """(result, exception), including Ctrl-C."""
    try:
        return action(), None
    except BaseException as error:
        return None, error


def describe(error: BaseException) -> str:
    """One line: the message of errors for users; for others also the type."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    words = " ".join(str(error).split())
    return (
        words if words and isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: {words}".rstrip(": ")
    )


def check_same(identity: Mapping[str, Any]) -> None:
    """Compare what must be the same in every process; RankMismatch names the rank and the keys that differ."""
    first, *others = gather_json(dict(identity))
    for number, other in enumerate(others, start=1):
        keys = [key for key in sorted(first.keys() | other.keys()) if first.get(key) != other.get(key)]
        if keys:
            shown = "; ".join(f"{key}: {first.get(key)!r:.80} in rank 0, {other.get(key)!r:.80}" for key in keys[:3])
            raise RankMismatch(
                f"rank {number} differs from rank 0 in {', '.join(keys)} ({shown} in rank {number}); install the same "
                f"plugins and use the same config on every machine"
            )


class Gradients:
    """The gradients of one model over all processes: accumulation, reduction to the mean, norm."""

    def __init__(self, model: nn.Module, task: Task, config: TrainConfig, device: torch.device) -> None:
        blocks = task.blocks(model)
        self.sharded = config.parallel == "shard" or (device.type == "cuda" and bool(blocks))
        self.sharded = self.sharded and world_size() > 1
        self.model = model
        if world_size() > 1:
            # All processes start from the first one's weights. FSDP2 takes the weights as
            # they are in each process, on a (world, 1) mesh without ever comparing them.
            for tensor in (*model.parameters(), *model.buffers()):
                dist.broadcast(tensor.detach(), src=0)
        if self.sharded:
            _shard(model, blocks, device, replicas=1 if config.parallel == "shard" else world_size())
        else:
            self._flat = _flatten(model)

    def zero(self) -> None:
        if not self.sharded:
            self._flat.zero_()
            return
        for parameter in self.model.parameters():
            parameter.grad = None

    def micro_batch(self, last: bool) -> Any:
        """Context of one forward and backward pass; only the last of a step communicates."""
        if self.sharded:
            self.model.set_requires_gradient_sync(last)  # type: ignore[operator]
        return nullcontext()

    def reduce(self) -> None:
        """After the last backward pass: the mean over processes. An unused parameter gets a zero gradient
        rather than None, so that the optimiser treats it the same whether the model is replicated or sharded."""
        if self.sharded:
            for parameter in self.model.parameters():
                if parameter.requires_grad and parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
        elif world_size() > 1:
            dist.all_reduce(self._flat)
            self._flat.div_(world_size())

    def norm(self) -> Tensor:
        """L2 norm of all gradients together, a scalar."""
        if not self.sharded:
            return self._flat.norm()
        grads = [p.grad for p in self.model.parameters() if p.grad is not None]
        total = torch.nn.utils.get_total_norm(grads)
        return total.full_tensor() if isinstance(total, DTensor) else total

    def scale(self, factor: float) -> None:
        if not self.sharded:
            self._flat.mul_(factor)
            return
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                local(parameter.grad).mul_(factor)


def local(tensor: Tensor) -> Tensor:
    """This process's part of a sharded tensor, sharing its memory; other tensors as they are."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _flatten(model: nn.Module) -> Tensor:
    """One zeroed buffer whose parts are the parameters' gradients: reduction, norm and clipping are one call each."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        return torch.zeros(0)
    flat = torch.zeros(sum(p.numel() for p in parameters), device=parameters[0].device, dtype=parameters[0].dtype)
    for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = part.view_as(parameter)
    return flat


def _shard(model: nn.Module, blocks: list[nn.Module], device: torch.device, *, replicas: int) -> None:
    """FSDP2 over a (replicas, shards) mesh, in place; on (world, 1) it equals DDP bit for bit."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (replicas, world_size() // replicas), mesh_dim_names=("replicate", "shard"))
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def gathered(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The whole tensors of a state that may be sharded, copied to the CPU; none in all processes but the first."""
    full = {}
    for name, tensor in state.items():
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if rank() == 0:
            full[name] = whole.detach().to("cpu", copy=True)
    return full


def seed_of(seed: int, step: int, process: int) -> int:
    """Of the noise of a process in a step; process -1: of what all draw alike."""
    return int(np.random.SeedSequence([seed, step, process + 1]).generate_state(1, np.uint64)[0] >> 1)

"""CUDA graphs: the kernels of a step are recorded once and launched together, where a GPU runs them faster than a host
can launch them one by one.

In: work on tensors whose shapes come again. Out: the same work, recorded when they do. `Graphs` belongs to a sampler
and keeps a bounded number of recordings, of sequences at most `MOST_BYTES`; those of weights that have moved are
dropped.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from threading import Lock, get_ident
from typing import Any, NamedTuple, Protocol, TypeVar, cast
from weakref import WeakKeyDictionary, finalize

import torch
from torch import Tensor

from fourm_engine.nn.transformer import Transformer

#: Devices whose work is recorded.
RECORDED_ON = ("cuda",)
#: Recordings that are kept: of shapes of parallel decoding, for each network; of batches of sequences, which hold the
#: keys and values of all tokens, at most so many bytes of these together.
MOST_SHAPES, MOST_SEQUENCES, MOST_BYTES = 64, 2, 1 << 30
#: Tokens decoded before their step is recorded, since kernels settle in the first; sequences of fewer than `FEWEST`
#: tokens are not.
BEFORE, FEWEST = 2, 8
#: Bytes to whose multiple each input is aligned; shapes that are remembered.
_ALIGNED, _SHAPES_SEEN = 256, 10_000

S = TypeVar("S", bound="Step")
Replay = Callable[[], object]


class Step(Protocol):
    """Work whose state is all on the device, in tensors that it changes in place."""

    def __call__(self) -> None: ...

    def tensors(self) -> list[Tensor]:
        """What a step of the same `kind` needs to go on in this one's place."""
        ...

    def kind(self) -> Hashable:
        """What decides, beside the shapes of the tensors, which kernels run."""
        ...

    def memory(self) -> int:
        """Bytes that it holds: its tensors, and the keys and values of the tokens to come."""
        ...


class Graphs:
    """The recordings of one sampler. `enabled`: whether work is recorded.

    They stay on the device after a generation, for the next of the same shapes: those of sequences with their keys and
    values, the latest `MOST_SEQUENCES` as far as these take `MOST_BYTES` together. A larger one goes with its
    generation; `clear` frees all."""

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled
        self._shapes: WeakKeyDictionary[Transformer, Shapes] = WeakKeyDictionary()
        self._steps: OrderedDict[tuple[Hashable, ...], tuple[Step, Replay]] = OrderedDict()
        self._lock, self._thread = Lock(), 0

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Record and replay in the block. Recordings hold one state: what other threads generate meanwhile is launched
        kernel by kernel."""
        ours = self._lock.acquire(blocking=False)
        if ours:
            self._thread = get_ident()
        try:
            yield
        finally:
            if ours:
                self._thread = 0
                self._lock.release()

    def __reduce__(self) -> tuple[type[Graphs], tuple[bool]]:
        return Graphs, (self.enabled,)  # copies record anew

    def clear(self) -> None:
        self._shapes.clear()
        self._steps.clear()

    def shapes(self, network: Transformer) -> Shapes | None:
        """What runs work with the weights of a network; None where nothing is recorded."""
        weights = next(network.parameters())
        if not self._usable(weights.device):
            return None
        address = _address(network)
        if network not in self._shapes or self._shapes[network].address != address:
            self._shapes[network] = Shapes(address, weights.device)
        return self._shapes[network]

    def repeated(self, step: S, times: int, network: Transformer, *, alone: bool) -> tuple[S, Replay]:
        """The step that holds the state, and what runs it once, at most so many `times`: `step`, or an earlier one of
        its kind, whose recording is replayed from the state of `step`. `alone`: only weights of `network` are used;
        other recordings are not kept."""
        device = next(network.parameters()).device
        if times < FEWEST or not self._usable(device):
            return step, step
        address = _address(network)
        for old in [key for key in self._steps if key[0] != address]:
            del self._steps[old]
        key = (address, step.kind(), *((x.shape, x.dtype) for x in step.tensors()))
        if alone and key in self._steps:
            self._steps.move_to_end(key)
            earlier, replay = self._steps[key]
            for there, here in zip(earlier.tensors(), step.tensors(), strict=True):
                there.copy_(here)
            return cast("S", earlier), replay
        run, runs = list[Replay]([step]), 0

        def advance() -> None:
            nonlocal runs
            if runs == BEFORE:
                try:
                    run[0] = record(step, device)
                except torch.OutOfMemoryError:
                    self._steps.clear()
                else:
                    if alone and step.memory() <= MOST_BYTES:
                        self._steps[key] = step, run[0]
                        while sum(kept.memory() for kept, _ in self._steps.values()) > MOST_BYTES:
                            self._steps.popitem(last=False)
                        while len(self._steps) > MOST_SEQUENCES:
                            self._steps.popitem(last=False)
            run[0]()
            runs += 1

        return step, advance

    def _usable(self, device: torch.device) -> bool:
        # Under autocast, weights are converted when they are first used, and forgotten later.
        recorded = device.type in RECORDED_ON and not torch.is_autocast_enabled(device.type)
        return self.enabled and recorded and self._thread == get_ident()


class _Recording(NamedTuple):
    replay: Replay
    inputs: list[Tensor]
    output: Tensor


class Shapes:
    """Recordings with the weights of one network, by the shapes of their inputs, which share the memory of these."""

    def __init__(self, address: Hashable, device: torch.device) -> None:
        self.address, self.device = address, device
        self._pool: Any = None
        self._seen, self._recorded = Counter[Hashable](), OrderedDict[Hashable, _Recording]()
        self._memory = torch.empty(0, dtype=torch.uint8, device=device)
        self._stream = _lent(device, self) if device.type == "cuda" else None

    def __call__(self, work: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """work(*inputs), which is valid until the next call. `work`: always the same, but for the shapes."""
        key = tuple((x.shape, x.dtype) for x in inputs)
        if key in self._recorded:
            self._recorded.move_to_end(key)
            recording = self._recorded[key]
            for there, here in zip(recording.inputs, inputs, strict=True):
                there.copy_(here)
            recording.replay()
            return recording.output
        if len(self._seen) > _SHAPES_SEEN:
            self._seen.clear()
        self._seen[key] += 1
        if self._seen[key] != 2:  # what comes once is not worth it; what did not fit is not tried again
            return work(*inputs)
        views = self._views(inputs)
        output = work(*views).clone()
        if len(self._recorded) >= MOST_SHAPES:
            self._recorded.clear()  # all, since they share a stream
        if not self._recorded and self.device.type == "cuda":  # a pool does not outlive the recordings that share it
            self._pool = torch.cuda.graph_pool_handle()
        try:
            replay = record(lambda: output.copy_(work(*views)), self.device, self._pool, self._stream)
        except torch.OutOfMemoryError:
            self._recorded.clear()
        else:
            self._recorded[key] = _Recording(replay, views, output)
        return output

    def _views(self, inputs: tuple[Tensor, ...]) -> list[Tensor]:
        """Copies in the shared memory. Earlier recordings keep theirs where it is too small."""
        sizes = [x.numel() * x.element_size() for x in inputs]
        starts = [0]
        for size in sizes:
            starts.append(starts[-1] + size + -size % _ALIGNED)
        if starts[-1] > len(self._memory):
            self._memory = torch.empty(starts[-1], dtype=torch.uint8, device=self.device)
        parts = zip(inputs, starts, sizes, strict=False)
        return [self._memory[at : at + size].view(x.dtype).view(x.shape).copy_(x) for x, at, size in parts]


def record(
    work: Callable[[], object], device: torch.device, pool: Any = None, stream: torch.cuda.Stream | None = None
) -> Replay:
    """Records `work`, without running it. It must have run before; addresses and shapes of its tensors stay. `pool`:
    memory for what is not kept beyond a replay. `stream`: of recordings that are dropped together; None: its own."""
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize(device)
    with torch.cuda.stream(stream or _lent(device, graph)):
        graph.capture_begin(pool=pool, capture_error_mode="thread_local")
        try:
            work()
        except BaseException:
            with suppress(RuntimeError):  # of a recording that was broken off
                graph.capture_end()
            raise
        graph.capture_end()
    return graph.replay


_FREE: defaultdict[torch.device, list[torch.cuda.Stream]] = defaultdict(list)


def _lent(device: torch.device, borrower: object) -> torch.cuda.Stream:
    """A stream that nothing else records on while the borrower lives. Each keeps memory for matrix products, which
    torch may free for all recordings of a stream where one of them is dropped (pytorch#193402)."""
    stream = _FREE[device].pop() if _FREE[device] else torch.cuda.Stream(device)
    finalize(borrower, _FREE[device].append, stream)
    return stream


def _address(network: Transformer) -> Hashable:
    """Changes where recordings of the network no longer do what it does."""
    return network.compiled, *(parameter.data_ptr() for parameter in network.parameters())

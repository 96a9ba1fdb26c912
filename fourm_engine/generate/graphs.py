"""CUDA graphs: records the kernels of a decoding step once and launches them together, since a GPU runs them faster
than the host can launch them one by one.

In: work on tensors whose shapes recur. Out: the same work, replayed from a recording when they do. Each sampler has one
`Graphs`, which keeps a bounded number of recordings (at most `MOST_BYTES` for sequences) and drops those whose weights
have moved in memory.
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

#: Types of devices on which work is recorded.
RECORDED_ON = ("cuda",)
#: Maximum number of recordings kept: for parallel decoding, shapes per network; for sequences, batches, whose keys and
#: values together take at most this many bytes.
MOST_SHAPES, MOST_SEQUENCES, MOST_BYTES = 64, 2, 1 << 30
#: Tokens decoded before the step is recorded, as warm-up; sequences of fewer than `FEWEST` tokens are not recorded.
BEFORE, FEWEST = 2, 8
#: Alignment of inputs in bytes; maximum number of shapes remembered.
_ALIGNED, _SHAPES_SEEN = 256, 10_000

S = TypeVar("S", bound="Step")
Replay = Callable[[], object]


class Step(Protocol):
    """A decoding step whose state is entirely on the device, in tensors that it updates in place."""

    def __call__(self) -> None: ...

    def tensors(self) -> list[Tensor]:
        """The state: tensors that another step of the same `kind` needs to take over."""
        ...

    def kind(self) -> Hashable:
        """Everything besides the tensors' shapes that determines which kernels run."""
        ...

    def memory(self) -> int:
        """Bytes held: the tensors, and the cache of keys and values at full length."""
        ...


class Graphs:
    """The recordings of one sampler. `enabled`: whether work is recorded.

    Recordings stay on the device for later generations of the same shapes. Of sequences, the latest `MOST_SEQUENCES`
    are kept with their keys and values, within `MOST_BYTES` in total; a larger one is dropped after its generation.
    `clear` frees all."""

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled
        self._shapes: WeakKeyDictionary[Transformer, Shapes] = WeakKeyDictionary()
        self._steps: OrderedDict[tuple[Hashable, ...], tuple[Step, Replay]] = OrderedDict()
        self._lock, self._thread = Lock(), 0

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Record and replay within the block. A recording holds one state, so other threads that generate meanwhile
        launch their kernels one by one."""
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
        """The recordings with the weights of `network`; None if nothing is recorded on its device."""
        weights = next(network.parameters())
        if not self._usable(weights.device):
            return None
        address = _address(network)
        if network not in self._shapes or self._shapes[network].address != address:
            self._shapes[network] = Shapes(address, weights.device)
        return self._shapes[network]

    def repeated(self, step: S, times: int, network: Transformer, *, alone: bool) -> tuple[S, Replay]:
        """The step that holds the state, and a function that runs it once, to be called at most `times` times. The step
        is `step`, or an earlier one of its kind whose recording is replayed from the state of `step`. `alone`: the step
        uses the weights of `network` only; the recordings of other steps are not kept."""
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
        # Autocast casts weights on first use and drops the copies later, so their addresses change.
        recorded = device.type in RECORDED_ON and not torch.is_autocast_enabled(device.type)
        return self.enabled and recorded and self._thread == get_ident()


class _Recording(NamedTuple):
    replay: Replay
    inputs: list[Tensor]
    output: Tensor


class Shapes:
    """Recordings with the weights of one network, by input shapes. Their inputs share one buffer."""

    def __init__(self, address: Hashable, device: torch.device) -> None:
        self.address, self.device = address, device
        self._pool: Any = None
        self._seen, self._recorded = Counter[Hashable](), OrderedDict[Hashable, _Recording]()
        self._memory = torch.empty(0, dtype=torch.uint8, device=device)
        self._stream = _lent(device, self) if device.type == "cuda" else None

    def __call__(self, work: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """Return work(*inputs), valid until the next call. `work` must do the same for the same shapes."""
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
        if self._seen[key] != 2:  # a shape seen once is not worth it; one that did not fit is not retried
            return work(*inputs)
        views = self._views(inputs)
        output = work(*views).clone()
        if len(self._recorded) >= MOST_SHAPES:
            self._recorded.clear()  # all, since they share a stream
        if not self._recorded and self.device.type == "cuda":  # a pool lives as long as the recordings that share it
            self._pool = torch.cuda.graph_pool_handle()
        try:
            replay = record(lambda: output.copy_(work(*views)), self.device, self._pool, self._stream)
        except torch.OutOfMemoryError:
            self._recorded.clear()
        else:
            self._recorded[key] = _Recording(replay, views, output)
        return output

    def _views(self, inputs: tuple[Tensor, ...]) -> list[Tensor]:
        """Copy the inputs to the shared buffer. If it is too small a new one is made; earlier recordings keep the
        old one."""
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
    """Record `work` without running it. It must have run before, and its tensors must keep their addresses and shapes.
    `pool`: memory for temporaries of a replay. `stream`: shared by recordings that are dropped together; None: a
    separate one."""
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize(device)
    with torch.cuda.stream(stream or _lent(device, graph)):
        graph.capture_begin(pool=pool, capture_error_mode="thread_local")
        try:
            work()
        except BaseException:
            with suppress(RuntimeError):  # of an aborted recording
                graph.capture_end()
            raise
        graph.capture_end()
    return graph.replay


_FREE: defaultdict[torch.device, list[torch.cuda.Stream]] = defaultdict(list)


def _lent(device: torch.device, borrower: object) -> torch.cuda.Stream:
    """A stream that nothing else records on while `borrower` lives. Each stream has a workspace for matrix products,
    which torch may free for all recordings of the stream when one of them is dropped (pytorch#193402)."""
    stream = _FREE[device].pop() if _FREE[device] else torch.cuda.Stream(device)
    finalize(borrower, _FREE[device].append, stream)
    return stream


def _address(network: Transformer) -> Hashable:
    """A key that changes whenever recordings of the network become invalid."""
    return network.compiled, *(parameter.data_ptr() for parameter in network.parameters())

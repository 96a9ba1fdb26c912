"""Task: what a run trains; the trainer's only interface to models, data and losses.

A task returns sums of losses, never means. It reports beforehand, on the host, how many items each sum runs over; the
trainer adds these counts over the micro-batches and processes of a step before it divides. The loss and the gradients
are therefore the same for any number of processes, however the batch is split.

    loss of a step = Σ_m weight_m · (Σ over micro-batches and processes of sum_m) / (global count_m)

State that learns but is not a parameter (an EMA codebook, usage counts) belongs in buffers of the model: checkpoints
hold only parameters, buffers, the optimiser's state and the step. A buffer changed by forward passes (a batch norm's
statistics) must already change in a run's first step: it is restored if a step is skipped, and otherwise averaged over
processes (`averages`). A step must not synchronise with the device.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from fourm_engine.data.order import Share

if TYPE_CHECKING:
    from fourm_engine.train.config import TrainConfig

K = TypeVar("K")


@dataclass
class Loss:
    """The losses of one micro-batch.

    `sums`: term -> scalar float32 tensor with a gradient, summed (not averaged) over the items that `Task.counts`
    counts under the same name. `logs`: more such sums, detached: reported, but not learned from."""

    sums: dict[str, Tensor]
    logs: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class MetaModel:
    """A model on the meta device, and how to initialise it.

    `fill(name, part, first, total)` writes rows [first, first + len(part)) of the `total` rows of a parameter into
    `part`; `init_buffers()` fills all buffers, once the model has memory. The values must not depend on the number of
    processes."""

    model: nn.Module
    fill: Callable[[str, Tensor, int, int], None]
    init_buffers: Callable[[], None]


class Task(ABC):
    """What a run trains. `count_names`: the keys of `counts`, the same in every process: all terms and logs."""

    name: str
    count_names: tuple[str, ...]
    #: Whether to also call `evaluate` with the initial weights when a run starts or resumes; the task keeps the result.
    evaluates_first = False
    #: The held-out measure by which to compare evaluations, if any: (name, whether higher is better).
    monitor: tuple[str, bool] | None = None
    #: Input and target tokens per sample in the batch's shape, for lengths in tokens; None: no fixed number.
    sample_tokens: int | None = None
    #: Lanes of the sample order, which processes share; see `fourm_engine.data.order`.
    lanes = 1

    @abstractmethod
    def model(self) -> nn.Module:
        """The network with its initial weights, on the CPU. Torch is seeded with the run's seed before the call."""

    def meta_model(self, seed: int) -> MetaModel | None:
        """The same network on the meta device, for models too large for a single process. None: every process creates
        the whole model with `model` before it is sharded."""
        return None

    @abstractmethod
    def batches(self, start_step: int, share: Share) -> Iterator[Any]:
        """An endless iterator of this process's micro-batches, `share.accumulate` per step, from `start_step` on. A
        pure function of (seed, step, share); `share.positions(step, micro)` gives the samples. Batches are on the CPU
        and must provide `to(device, non_blocking=True)` and `record_stream(stream)`, as tensors and
        `fourm_engine.batch.Batch` do."""

    @abstractmethod
    def counts(self, batch: Any) -> dict[str, float]:
        """Host-side counts of one micro-batch; missing names count 0."""

    def tokens(self, batch: Any) -> int:
        """Number of tokens of a micro-batch, without padding, computed on the host for `tokens_per_s`; 0 if none."""
        return 0

    def flops(self, batch: Any) -> float:
        """FLOPs of the matrix products of a micro-batch, forward and backward, for `mfu`; 0 if unknown."""
        return 0.0

    def weights(self, counts: Mapping[str, float], step: int) -> dict[str, float]:
        """The weight of each term of the loss, from the step's global counts; by default the mean of the terms present.
        A term that is missing or has weight 0 does not contribute."""
        present = [name for name, count in counts.items() if count > 0]
        return {name: 1 / len(present) for name in present}

    @abstractmethod
    def loss(self, model: nn.Module, batch: Any, step: int) -> Loss:
        """The loss sums of one micro-batch on the model's device. Must call `model(…)` exactly once, for the hooks of
        FSDP2. Runs under autocast; torch's global generator is seeded with (seed, step, rank)."""

    def after_step(self, model: nn.Module, step: int) -> None:  # noqa: B027 (most tasks have nothing to do here)
        """Called after the optimiser's update of `step`, without gradients, in every process: codebook EMA, restarts.
        Torch's global generator has the same seed in all processes; anything that differs between them must be reduced
        with `fourm_engine.train.distributed.sum_over_processes`. May change buffers only, which are restored if the
        step is skipped; only the device knows whether it is, so nothing may be read on the host. Must clear anything
        that forward passes stored outside of buffers."""

    def averages_buffer(self, buffer: str) -> bool:
        """Whether the EMA includes this floating-point buffer."""
        return True

    def after_average(self, model: nn.Module, averages: Mapping[str, Tensor]) -> None:  # noqa: B027
        """Called after each update of the EMA: recompute, in place, averages that depend on others (a codebook on its
        counts and sums). A pure function of `averages` and the model's integers and flags."""

    @abstractmethod
    def evaluate(self, model: nn.Module, share: Share) -> dict[str, tuple[float, float]]:
        """Held-out measures, name -> (sum, count) in this process; the trainer adds them up and divides. Every process
        must call `model(…)` equally often and return the same names. Runs in evaluation mode, without gradients."""

    def monitored(self, scores: Mapping[str, float]) -> float:
        """The value of the measure `monitor` in an evaluation; NaN if it was not measured."""
        return math.nan if self.monitor is None else scores.get(self.monitor[0], math.nan)

    def check(self, config: TrainConfig) -> None:
        """Called in every process before training. Raises ValueError for settings that this task does not support;
        prepares `pairs` and `show`, if implemented."""
        for setting in ("pairs_every", "pictures_every"):
            if getattr(config, setting) is not None:
                raise ValueError(f"{self.name}: {setting} is for models of several modalities; leave it out")

    def pairs(self, model: nn.Module, share: Share) -> dict[tuple[str, str], tuple[float, float]]:
        """Held-out losses by input and target, (input, target) -> (sum, count), like `evaluate`."""
        raise AssertionError  # see `check`

    def show(self, weights: dict[str, Tensor], path: Path, device: torch.device) -> None:
        """Draw predictions on held-out samples, computed on `device` with these weights (as in `export`), to `path`.
        Called on rank 0 only; the caller restores torch's random state."""
        raise AssertionError  # see `check`

    @abstractmethod
    def export(self, weights: dict[str, Tensor], folder: Path, scores: dict[str, float]) -> None:
        """Write the finished model from the full state dict (on the CPU; weights or averages, according to
        `train.export`) and the last evaluation, atomically, to the run's `folder`. Called on rank 0 only."""

    def export_averages(self, weights: dict[str, Tensor], folder: Path) -> None:
        """Also write the averages, if `train.export` is "both". Raises ValueError if the task does not support it."""
        raise ValueError(f"{self.name}: exports one state only; set train.export to 'ema' or 'weights'")

    def sample_names(self, step: int, micro: int, share: Share) -> list[str]:
        """Names of a micro-batch's samples, in order, for messages; [] if they have none."""
        return []

    #: Whether a step can be recomputed from `tensors_of` its batches.
    replays = False

    def tensors_of(self, batch: Any) -> dict[str, Tensor]:
        """A micro-batch of `batches` as named tensors, on the CPU."""
        assert isinstance(batch, Tensor)
        return {"batch": batch}

    def batch_of(self, tensors: Mapping[str, Tensor]) -> Any:
        """The micro-batch with these tensors. Raises KeyError or ValueError for tensors that do not fit."""
        return tensors["batch"]

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """JSON that must be equal in every process and when a checkpoint is resumed: the model's shape, the vocabulary,
        the data. Keys are dotted ("model.width"), for errors to name the difference."""

    def defaults(self) -> dict[str, Any]:
        """Values for keys of `identity` that an older checkpoint lacks."""
        return {}

    def shared_facts(self) -> dict[str, Any]:
        """JSON that must be equal in every process, in addition to `identity`, but may change when a run is resumed:
        held-out data, of which each process measures a part, and what files hold. Called only if there are several."""
        return {}

    def versions(self) -> dict[str, str]:
        """Versions of plugins and other dependencies. Must be equal in every process; may change when a run is
        resumed."""
        return {}

    def blocks(self, model: nn.Module) -> list[nn.Module]:
        """Modules to shard individually over several GPUs; []: the model is small and is replicated."""
        return []

    def layers_above(self, name: str) -> int | None:
        """Number of layers above the parameter's, for `train.layer_decay`; None: the layers have no order."""
        return None

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        """Whether weight decay applies. Not called for biases, norms and other vectors, nor for `nn.Embedding`."""
        return True


def means(sums: Mapping[K, float], counts: Mapping[K, float]) -> dict[K, float]:
    """sum / count for every name with a count above 0."""
    return {name: total / counts[name] for name, total in sums.items() if counts.get(name, 0) > 0}

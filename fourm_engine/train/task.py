"""Task: what a run trains; all that the trainer knows of models, data and losses.

A task gives sums of losses, never means. It says beforehand, on the host, how many items each sum runs over; the
trainer adds those counts over the micro-batches and processes of a step and only then divides. So one process and many
compute the same loss and the same gradients, however the batch is split.

    loss of a step = Σ_m weight_m · (Σ over micro-batches and processes of sum_m) / (global count_m)

State that learns but is not a parameter (an EMA codebook, usage counts) belongs in buffers of the model: checkpoints
hold parameters, buffers, the optimiser's state and the number of the step, and nothing else. A buffer changed by
forward passes (a batch norm's statistics) must already change in a run's first step: it is restored if a step is
skipped, and otherwise averaged over processes (`averages`). In a step nothing waits for the device.
"""

from __future__ import annotations

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
    counts under the same name. `logs`: further such sums, detached, which are reported and not learned from."""

    sums: dict[str, Tensor]
    logs: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Planned:
    """`model`, on the meta device. `fill(name, part, first, total)` writes rows [first, first + len(part)) of the
    `total` rows of a parameter into `part`; `tabulate()` fills all buffers, once the model has memory. No number
    depends on the processes."""

    model: nn.Module
    fill: Callable[[str, Tensor, int, int], None]
    tabulate: Callable[[], None]


class Task(ABC):
    """What is trained. `count_names` are the keys of `counts`, the same in every process: every term and every log."""

    name: str
    count_names: tuple[str, ...]
    #: Whether `evaluate` is also called with the initial weights, whenever a run starts or continues; the task keeps
    #: the result.
    evaluates_first = False
    #: The held-out measure that says which of two evaluations is better, and whether more of it is, for
    #: `train.keep_best`; None: none does.
    best: tuple[str, bool] | None = None
    #: Input and target tokens of a sample in the batch's shape, for lengths in tokens; None: they have no fixed number.
    sample_tokens: int | None = None
    #: Lanes of the order of its samples, which processes share; see `fourm_engine.data.order`.
    lanes = 1

    @abstractmethod
    def model(self) -> nn.Module:
        """The whole network with its initial weights, on the CPU. Torch is seeded with the run's seed before the
        call."""

    def planned(self, seed: int) -> Planned | None:
        """The same network before it has memory, for models that no process should hold whole. None: `model` makes it
        whole in every process, and it is sharded afterwards."""
        return None

    @abstractmethod
    def batches(self, start_step: int, share: Share) -> Iterator[Any]:
        """This process's micro-batches, `share.accumulate` a step, from `start_step` on without end. A pure function of
        (seed, step, share): `share.positions(step, micro)` says which samples. On the CPU: the trainer calls their
        `to(device, non_blocking=True)`, and on a GPU `record_stream(stream)` of the result, which a tensor and a
        `fourm_engine.batch.Batch` have."""

    @abstractmethod
    def counts(self, batch: Any) -> dict[str, float]:
        """Host-side counts of one micro-batch; names that are left out count 0."""

    def tokens(self, batch: Any) -> int:
        """Host-side number of tokens of a micro-batch, padding left out, for `tokens_per_s`; 0 where there are none."""
        return 0

    def flops(self, batch: Any) -> float:
        """FLOPs of the matrix products of a micro-batch, forward and backward, for `mfu`; 0 where they are unknown."""
        return 0.0

    def weights(self, counts: Mapping[str, float], step: int) -> dict[str, float]:
        """Weight of each learned term from the step's global counts; the default averages the terms that are present.
        A term of weight 0 or left out is not learned from."""
        present = [name for name, count in counts.items() if count > 0]
        return {name: 1 / len(present) for name in present}

    @abstractmethod
    def loss(self, model: nn.Module, batch: Any, step: int) -> Loss:
        """The sums of one micro-batch on the model's device. Calls `model(…)` exactly once, so that sharding sees it;
        mixed precision is already on. Torch's global generator was seeded with (seed, step, rank)."""

    def after_step(self, model: nn.Module, step: int) -> None:  # noqa: B027 (most tasks have nothing to do here)
        """After the optimiser's update of `step`, without gradients, in every process: codebooks by EMA, restarts.
        Torch's global generator was seeded alike in all of them; what differs between them must be reduced, with
        `fourm_engine.train.distributed.sum_over_processes`. It changes buffers alone, and reads nothing on the host,
        which would wait for the device: only that knows whether the step is skipped, in which case all buffers are
        then restored. What forward passes noted elsewhere it forgets."""

    def averages(self, buffer: str) -> bool:
        """Whether a floating-point buffer of the model's state is averaged where the run keeps an EMA."""
        return True

    def after_average(self, model: nn.Module, averages: Mapping[str, Tensor]) -> None:  # noqa: B027
        """After each update of the EMA: recompute, in place, averages that follow from others (a codebook from its
        counts and sums). A pure function of `averages` and the model's integers and flags."""

    @abstractmethod
    def evaluate(self, model: nn.Module, share: Share) -> dict[str, tuple[float, float]]:
        """Held-out measures, name -> (sum, count) of this process, which the trainer adds up and divides. Every process
        calls `model(…)` equally often and returns the same names. Evaluation mode, no gradients."""

    def check(self, config: TrainConfig) -> None:
        """Called in every process before anything is trained. Raises ValueError for settings that this task cannot
        follow; one that has `pairs` or `show` prepares them here."""
        for setting in ("pairs_every", "pictures_every"):
            if getattr(config, setting) is not None:
                raise ValueError(f"{self.name}: {setting} is for models of several modalities; leave it out")

    def pairs(self, model: nn.Module, share: Share) -> dict[tuple[str, str], tuple[float, float]]:
        """Held-out losses by what is shown and what is predicted, (input, target) -> (sum, count); as `evaluate`."""
        raise AssertionError  # see `check`

    def show(self, weights: dict[str, Tensor], path: Path, device: torch.device) -> None:
        """Write a picture of predictions on held-out samples, computed on `device` by the model with these weights, as
        in `export`. Called in the first process only; the caller keeps torch's random numbers as they were."""
        raise AssertionError  # see `check`

    @abstractmethod
    def export(self, weights: dict[str, Tensor], folder: Path, scores: dict[str, float]) -> None:
        """Write the finished artefact from the model's full state (CPU tensors; averages or weights, as `train.export`
        says) and the last evaluation, atomically, below the run's `folder`. Called in the first process only."""

    def export_averages(self, weights: dict[str, Tensor], folder: Path) -> None:
        """Write the averages beside the artefact, where `train.export` is "both". Raises ValueError for a task that
        exports one state alone."""
        raise ValueError(f"{self.name}: one state is exported; set train.export to 'ema' or 'weights'")

    def sample_names(self, step: int, micro: int, share: Share) -> list[str]:
        """Names of the samples of a micro-batch, in its order, for messages; none where they have none."""
        return []

    #: Whether a step may be computed again from `tensors_of` its batches.
    replays = False

    def tensors_of(self, batch: Any) -> dict[str, Tensor]:
        """A micro-batch of `batches` as named tensors, on the CPU."""
        assert isinstance(batch, Tensor)
        return {"batch": batch}

    def batch_of(self, tensors: Mapping[str, Tensor]) -> Any:
        """The micro-batch of these tensors. Raises KeyError or ValueError for others."""
        return tensors["batch"]

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """JSON: what must be the same in every process and when a checkpoint is resumed: the model's shape, the
        vocabulary, the data. Dotted keys ("model.width"), so that an error can name what differs."""

    def defaults(self) -> dict[str, Any]:
        """How keys of `identity` count that a checkpoint lacks, since it is older than they are."""
        return {}

    def versions(self) -> dict[str, str]:
        """Of what takes part, such as plugins: the same in every process, free to change before a run is resumed."""
        return {}

    def blocks(self, model: nn.Module) -> list[nn.Module]:
        """Modules to shard one by one over several GPUs; none: the model is small and is replicated."""
        return []

    def above(self, name: str) -> int | None:
        """How many layers lie above that of a parameter, for `train.layer_decay`; None: the model has no such order."""
        return None

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        """Whether weight decay applies. Not called for biases, norms and other vectors, nor for `nn.Embedding`."""
        return True


def means(sums: Mapping[K, float], counts: Mapping[K, float]) -> dict[K, float]:
    """sum / count for every name that counted something."""
    return {name: total / counts[name] for name, total in sums.items() if counts.get(name, 0) > 0}

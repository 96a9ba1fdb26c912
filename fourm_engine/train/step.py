"""Learner: a model and what learns with it (gradients, optimiser, averages), and one step of it.

In: a task, the `train` section, the micro-batches of a step on the device. Out: updated tensors, and an `Outcome`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fourm_engine.train.averages import Averages, ForwardBuffers
from fourm_engine.train.distributed import Gradients, rank, seed_of, sum_over_processes, together, world_size
from fourm_engine.train.optimiser import Optimiser
from fourm_engine.train.schedule import Plan, learning_rate
from fourm_engine.train.task import means

if TYPE_CHECKING:
    from fourm_engine.train.config import TrainConfig
    from fourm_engine.train.task import Task
    from fourm_plugins.manager import PluginManager

#: Steps without a finite loss or gradient are skipped; this many in a row end the run.
MAX_SKIPPED = 10


class Diverged(ValueError):
    """Losses or gradients remained infinite or NaN."""


@dataclass(frozen=True)
class Outcome:
    """What a step came to: the loss, the sum and the mean of every term over all processes, the gradients' L2 norm, the
    rate. `taken`: all of it was finite, or else the step was skipped."""

    step: int
    taken: bool
    loss: float
    sums: dict[str, float]
    means: dict[str, float]
    norm: float
    lr: float

    def __str__(self) -> str:
        losses = ", ".join(f"{name} {value:.4g}" for name, value in self.means.items())
        return f"step {self.step + 1}: not finite ({losses}; gradient norm {self.norm:.4g})"


class Learner:
    """`task`'s model on `device`, in training mode, with all that a step updates."""

    def __init__(
        self, task: Task, config: TrainConfig, plan: Plan, host: PluginManager, *, device: torch.device, seed: int
    ) -> None:
        torch.manual_seed(seed)
        self.task, self.config, self.plan, self.device, self.seed = task, config, plan, device, seed
        self.model = together(lambda: task.model().to(device)).train()
        self.gradients = Gradients(self.model, task, config, device)
        self.optimiser = Optimiser(self.model, task, config, host)
        self.schedule = host.schedule(config.schedule)
        self.buffers = ForwardBuffers(self.model)
        self.averages = Averages(self.model, task, config.ema) if config.ema is not None else None
        self.bf16 = config.precision == "bf16" or (config.precision == "auto" and device.type == "cuda")

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16)

    def tensors(self) -> dict[str, Tensor]:
        """Everything a checkpoint holds, by name; reading one writes into these."""
        tensors = {f"model/{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors.update(self.optimiser.tensors())
        if self.averages:
            tensors.update({f"ema/{name}": tensor for name, tensor in self.averages.tensors.items()})
        return tensors

    def state(self, *, averaged: bool) -> dict[str, Tensor]:
        """The model's state, or its averages where there are some."""
        return self.averages.state() if self.averages and averaged else self.model.state_dict()

    def weights(self, *, averaged: bool) -> AbstractContextManager[None]:
        """The model with its averages swapped in, or as it is."""
        return self.averages.in_model() if self.averages and averaged else nullcontext()

    def step(
        self,
        step: int,
        micro_batches: list[Any],
        counts: dict[str, float],
        *,
        ahead: Callable[[], None] | None = None,
    ) -> Outcome:
        """One update. `counts`: of each term over the step and all processes. `ahead` is called when the device has
        work queued, before the step waits for it."""
        weights, lr = self.task.weights(counts, step), learning_rate(step, self.plan, self.schedule)
        # Gradients are averaged over processes and the sums must be added, hence the factor.
        scale = {n: world_size() * weights.get(n, 0.0) / c if c > 0 else 0.0 for n, c in counts.items()}
        sums = torch.zeros(len(counts), device=self.device)
        order = {name: i for i, name in enumerate(counts)}
        self.gradients.zero()
        self.buffers.before()
        torch.manual_seed(seed_of(self.seed, step, rank()))
        for number, batch in enumerate(micro_batches):
            with self.gradients.micro_batch(last=number == len(micro_batches) - 1):
                with self.autocast():
                    loss = self.task.loss(self.model, batch, step)
                total = sum(scale[name] * value.float() for name, value in loss.sums.items())
                assert isinstance(total, Tensor), f"{self.task.name}: a loss without any term"
                total.backward()
            for name, value in {**loss.sums, **loss.logs}.items():
                sums[order[name]] += value.detach().float()
        self.buffers.after()
        self.gradients.reduce()
        norm_tensor = self.gradients.norm()
        sum_over_processes(sums)
        if ahead is not None:
            ahead()
        # The step's only wait for a GPU.
        *numbers, norm = torch.cat([sums, norm_tensor.reshape(1).to(sums.dtype)]).tolist()
        totals = dict(zip(counts, numbers, strict=True))
        mean = means(totals, counts)
        learned = [weights[name] * mean[name] for name in mean if weights.get(name)]
        taken = math.isfinite(norm) and all(math.isfinite(value) for value in learned)
        outcome = Outcome(step, taken, sum(learned), totals, mean, norm, lr)
        if not taken:
            self.buffers.restore()
            self.task.discard(self.model)
            return outcome
        if self.config.clip is not None and norm > self.config.clip:
            self.gradients.scale(self.config.clip / norm)
        self.optimiser.step(lr)
        with torch.no_grad():
            self.buffers.average()
            torch.manual_seed(seed_of(self.seed, step, -1))
            self.task.after_step(self.model, step)
            if self.averages:
                self.averages.update()
        return outcome

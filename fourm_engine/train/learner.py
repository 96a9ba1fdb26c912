"""Learner: a model, everything that a step updates (gradients, optimiser, averages), and the step itself.

In: a task, the `train` section, the micro-batches of a step on the device. Out: updated tensors, and an outcome that is
read later. A step never synchronises with the device: even skipping a step that is not finite is decided there.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fourm_engine.train.averages import Averages, Buffers
from fourm_engine.train.distributed import rank, seed_generators, seed_of, sum_over_processes, world_size
from fourm_engine.train.optimiser import Optimiser
from fourm_engine.train.outcome import Pending
from fourm_engine.train.parallel import Gradients, build_model, is_sharded
from fourm_engine.train.schedule import Plan, learning_rate
from fourm_engine.train.task import Task

if TYPE_CHECKING:
    from fourm_engine.train.config import TrainConfig
    from fourm_plugins.manager import PluginManager


class Learner:
    """`task`'s model on `device`, in training mode, with everything that a step updates."""

    def __init__(
        self, task: Task, config: TrainConfig, plan: Plan, host: PluginManager, *, device: torch.device, seed: int
    ) -> None:
        self.task, self.config, self.plan, self.device, self.seed = task, config, plan, device, seed
        self.bf16 = config.precision == "bf16" or (config.precision == "auto" and device.type == "cuda")
        self.model = build_model(task, config, device, seed=seed, bf16=self.bf16)
        self.gradients = Gradients(self.model, sharded=is_sharded(config, device, task.blocks(self.model)))
        self.optimiser = Optimiser(self.model, task, config, host)
        self.schedule = host.schedule(config.schedule)
        self.buffers = Buffers(self.model, learn=type(task).after_step is not Task.after_step)
        self.averages = Averages(self.model, task, config.ema) if config.ema is not None else None
        self.before_reduce: Callable[[], None] = lambda: None  # called before gradients are reduced over the processes

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of a checkpoint, by name. Loading a checkpoint writes into them."""
        tensors = {f"model/{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors.update(self.optimiser.tensors())
        if self.averages:
            tensors.update({f"ema/{name}": tensor for name, tensor in self.averages.tensors.items()})
        return tensors

    def state(self, *, averaged: bool) -> dict[str, Tensor]:
        """The model's state dict, of the averages if `averaged` and there are any."""
        return self.averages.state() if self.averages and averaged else self.model.state_dict()

    def weights(self, *, averaged: bool) -> AbstractContextManager[None]:
        """Context in which the model holds its averages, if `averaged` and there are any."""
        return self.averages.in_model() if self.averages and averaged else nullcontext()

    def step(self, step: int, micro_batches: list[Any], counts: dict[str, float]) -> Pending:
        """One optimiser step. `counts`: items per loss term, over all micro-batches and processes."""
        weights, lr = self.task.weights(counts, step), learning_rate(step, self.plan, self.schedule)
        # Gradients are averaged over processes, but the loss is a sum over them: hence the factor `world_size`.
        scale = {n: world_size() * weights.get(n, 0.0) / c if c > 0 else 0.0 for n, c in counts.items()}
        sums = torch.zeros(len(counts) + 1, device=self.device)  # the last: the total loss
        order = {name: i for i, name in enumerate(counts)}
        self.gradients.zero()
        self.buffers.snapshot()
        seed_generators(seed_of(self.seed, step, rank()), self.device)
        for number, batch in enumerate(micro_batches):
            self.gradients.communicate(last=number == len(micro_batches) - 1)
            with self.autocast():
                loss = self.task.loss(self.model, batch, step)
            total = sum(scale[name] * value.float() for name, value in loss.sums.items())
            assert isinstance(total, Tensor), f"{self.task.name}: a loss without any term"
            total.backward()
            for name, value in {**loss.sums, **loss.logs}.items():
                sums[order[name]] += value.detach().float()
            sums[-1] += total.detach()
        local_finite = sums[-1].isfinite()
        self.before_reduce()
        self.buffers.note_changes()
        self.gradients.reduce()
        norm = self.gradients.norm()
        sum_over_processes(sums)
        taken = norm.isfinite() & sums[-1].isfinite()
        if self.config.clip is not None:
            self.gradients.clip(norm, self.config.clip)
        self.optimiser.step(lr, taken)
        with torch.no_grad():
            self.buffers.average()
            seed_generators(seed_of(self.seed, step, -1), self.device)
            self.task.after_step(self.model, step)
            self.buffers.undo_unless(taken)
            if self.averages:
                self.averages.update(taken)
            numbers = torch.cat([sums[:-1], torch.stack([fact.to(sums.dtype) for fact in (norm, taken, local_finite)])])
        return Pending(step, numbers, counts=counts, weights=weights, lr=lr)

"""The learning rate and the optimiser's groups. In: a step, a model. Out: pure functions of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from fourm_engine.train.config import TrainConfig
    from fourm_engine.train.task import Task


def learning_rate(step: int, config: TrainConfig) -> float:
    """The rate of `step` in [0, steps): step 0 already learns, the last step of a cosine or a cooldown has `min_lr`."""
    if step < config.warmup:
        return config.lr * (step + 1) / (config.warmup + 1)
    last = config.steps - 1
    if config.schedule == "constant":
        return config.lr
    if config.schedule == "wsd":
        begin = last - config.cooldown
        share = max(0.0, min(1.0, (step - begin) / config.cooldown))
        return config.lr + (config.min_lr - config.lr) * share
    share = min(1.0, (step - config.warmup) / max(1, last - config.warmup))
    return config.min_lr + (config.lr - config.min_lr) * (1 + math.cos(math.pi * share)) / 2


def decay_groups(model: nn.Module, task: Task) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """(parameters that decay, parameters that do not): no decay for vectors, scalars, `nn.Embedding`, and what the task
    excludes. Frozen parameters are in neither; one shared by two modules appears once."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim >= 2 and id(parameter) not in embeddings and task.decays(name, parameter)
            (decayed if decays else free).append(parameter)
    return decayed, free


def make_optimiser(model: nn.Module, task: Task, config: TrainConfig) -> torch.optim.AdamW:
    decayed, free = decay_groups(model, task)
    if not decayed and not free:
        raise ValueError(f"{task.name}: nothing to train, the model has no parameter that requires a gradient")
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=config.lr, betas=config.betas, eps=config.eps, fused=True
    )

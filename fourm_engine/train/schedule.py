"""Learning-rate schedules: the warm-up, and the built-in schedules, which are entry points of fourm-engine.

In: a step and the `Plan` of a run. Out: a rate, a pure function of both.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """Rates and lengths of a run; lengths in optimiser steps."""

    schedule: str
    steps: int
    lr: float  # the peak
    min_lr: float
    warmup: int
    cooldown: int


def learning_rate(step: int, plan: Plan, schedule: Callable[..., float]) -> float:
    """The learning rate of `step` in [0, steps): a linear warm-up, above 0 already at step 0, then the schedule. Raises
    ValueError if the schedule returns an invalid rate."""
    if step < plan.warmup:
        return plan.lr * (step + 1) / (plan.warmup + 1)
    rate = schedule(step, steps=plan.steps, lr=plan.lr, min_lr=plan.min_lr, warmup=plan.warmup, cooldown=plan.cooldown)
    if not (isinstance(rate, (int, float)) and math.isfinite(rate) and rate >= 0):
        raise ValueError(f"train.schedule={plan.schedule}: a rate of {rate!r:.80} at step {step}")
    return rate


def cosine(step: int, *, steps: int, lr: float, min_lr: float, warmup: int, cooldown: int) -> float:
    """Half a cosine, from `lr` down to `min_lr` at the last step."""
    share = min(1.0, (step - warmup) / max(1, steps - 1 - warmup))
    return min_lr + (lr - min_lr) * (1 + math.cos(math.pi * share)) / 2


def constant(step: int, *, steps: int, lr: float, min_lr: float, warmup: int, cooldown: int) -> float:
    """`lr` throughout."""
    return lr


def wsd(step: int, *, steps: int, lr: float, min_lr: float, warmup: int, cooldown: int) -> float:
    """Warm-up, stable, decay: `lr`, then linearly down to `min_lr` in the last `cooldown` steps."""
    return lr + (min_lr - lr) * _cooled(step, steps, cooldown)


def invsqrt(step: int, *, steps: int, lr: float, min_lr: float, warmup: int, cooldown: int) -> float:
    """`lr` · sqrt(warmup / step) (Vaswani et al. 2017), then linearly down to `min_lr` in the last `cooldown` steps.
    Except in the cool-down, the rates do not depend on the length of the run."""
    begin = min(step, steps - 1 - cooldown)
    rate = max(min_lr, lr * math.sqrt((warmup + 1) / (max(begin, warmup) + 1)))
    return rate + (min_lr - rate) * _cooled(step, steps, cooldown)


def _cooled(step: int, steps: int, cooldown: int) -> float:
    """The fraction of the cool-down that has passed at `step`; 1 at the last one."""
    return max(0.0, step - (steps - 1 - cooldown)) / cooldown if cooldown else 0.0

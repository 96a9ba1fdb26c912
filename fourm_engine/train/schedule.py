"""The learning rate of a step: the warm-up, and the built-in schedules, which are entry points of fourm-engine.

In: a step and the `train` section. Out: a rate, a pure function of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fourm_engine.train.config import TrainConfig


def learning_rate(step: int, config: TrainConfig, schedule: Callable[..., float]) -> float:
    """The rate of `step` in [0, steps): step 0 already learns; after the warm-up it is `schedule`'s.

    Raises ValueError where that gives no rate."""
    if step < config.warmup:
        return config.lr * (step + 1) / (config.warmup + 1)
    rate = schedule(
        step, steps=config.steps, lr=config.lr, min_lr=config.min_lr, warmup=config.warmup, cooldown=config.cooldown
    )
    if not (isinstance(rate, (int, float)) and math.isfinite(rate) and rate >= 0):
        raise ValueError(f"train.schedule={config.schedule}: a rate of {rate!r:.80} at step {step}")
    return rate


def cosine(step: int, *, steps: int, lr: float, min_lr: float, warmup: int, cooldown: int) -> float:
    """From `lr` down to `min_lr` at the last step, half a cosine."""
    share = min(1.0, (step - warmup) / max(1, steps - 1 - warmup))
    return min_lr + (lr - min_lr) * (1 + math.cos(math.pi * share)) / 2


def constant(step: int, *, steps: int, lr: float, min_lr: float, warmup: int, cooldown: int) -> float:
    """`lr` throughout."""
    return lr


def wsd(step: int, *, steps: int, lr: float, min_lr: float, warmup: int, cooldown: int) -> float:
    """Warm-up, stable, decay: `lr`, and in the last `cooldown` steps linearly down to `min_lr`."""
    begin = steps - 1 - cooldown
    share = max(0.0, min(1.0, (step - begin) / cooldown))
    return lr + (min_lr - lr) * share

"""Lion (Chen et al. 2023, arXiv 2302.06675), and a schedule that falls as one over the square root of the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch


class Lion(torch.optim.Optimizer):
    """Every number of a parameter moves by the learning rate, in the direction of the sign of its momentum."""

    def __init__(
        self, params: Iterable[Any], *, lr: float, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.0
    ) -> None:
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas={betas}: both must be in [0, 1)")
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update (algorithm 2 of the paper)."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            first, second = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(parameter)
                momentum, gradient = state["momentum"], parameter.grad
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(momentum.lerp(gradient, 1 - first).sign_(), alpha=-group["lr"])
                momentum.lerp_(gradient, 1 - second)
        return loss


def inverse_sqrt(step: int, *, steps: int, lr: float, min_lr: float, warmup: int, cooldown: int) -> float:
    """lr · √(warmup / step) after the warm-up, and linearly down to `min_lr` in the last `cooldown` steps."""
    rate = lr * math.sqrt((warmup + 1) / (step + 1))
    begin = steps - 1 - cooldown
    if step <= begin or not cooldown:
        return max(rate, min_lr)
    at_begin = lr * math.sqrt((warmup + 1) / (begin + 1))
    return at_begin + (min_lr - at_begin) * (step - begin) / cooldown

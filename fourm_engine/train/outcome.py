"""The outcome of a step, read once the device has computed it, while the host runs ahead.

In: numbers on the device. Out: an `Outcome` on the host.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fourm_engine.train.task import means

#: Maximum number of steps by which the host runs ahead of a GPU.
AHEAD = 2
#: A step without finite loss and gradients is skipped; this many in a row end the run.
MAX_SKIPPED = 10


class Diverged(ValueError):
    """Losses or gradients were infinite or NaN in too many steps in a row."""


@dataclass(frozen=True)
class Outcome:
    """The loss, the sum and mean of each term over all processes, the gradients' L2 norm, and the learning rate.
    `taken`: whether all were finite; otherwise the step was skipped. `local_finite`: whether the loss of this
    process's samples was finite."""

    step: int
    taken: bool
    loss: float
    sums: dict[str, float]
    means: dict[str, float]
    norm: float
    lr: float
    local_finite: bool = True

    def __str__(self) -> str:
        losses = ", ".join(f"{name} {value:.4g}" for name, value in self.means.items())
        return f"step {self.step + 1}: not finite ({losses}; gradient norm {self.norm:.4g})"


class Pending:
    """An outcome that the device may still be computing. `numbers`, on the device: the sums of the terms in the order
    of `counts`, the norm, whether the step was taken, whether the loss was finite in this process."""

    def __init__(
        self, step: int, numbers: Tensor, *, counts: dict[str, float], weights: dict[str, float], lr: float
    ) -> None:
        self.step, self._counts, self._weights, self._lr = step, counts, weights, lr
        self._numbers, self._copied = numbers, None
        if numbers.is_cuda:
            self._numbers = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
            self._numbers.copy_(numbers, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()

    def read(self) -> Outcome:
        """The outcome. Waits for the device if necessary."""
        if self._copied is not None:
            self._copied.synchronize()
        *values, norm, taken, local_finite = self._numbers.tolist()
        sums = dict(zip(self._counts, values, strict=True))
        mean = means(sums, self._counts)
        loss = sum(weight * mean[name] for name, weight in self._weights.items() if weight and name in mean)
        return Outcome(self.step, bool(taken), loss, sums, mean, norm, self._lr, bool(local_finite))

"""Linear layers that are fast for the few rows of a step of left-to-right decoding.

In: activations (..., D) and a weight (V, D). Out: (..., V), as from `torch.nn.functional.linear`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Numbers of rows of activations, and minimum size of a weight (smaller ones stay in a CPU's caches between tokens),
#: for which CPU kernels are faster with the weight as the first factor: two thirds of the time at four rows, nine
#: tenths at eight. One row is limited by memory bandwidth either way, and weights with D above V gain nothing.
FEW, LARGE = range(2, 9), 1 << 17


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + b."""
    if (
        x.device.type != "cpu"
        or weight.numel() < LARGE
        or weight.shape[0] < weight.shape[1]
        or x.numel() // x.shape[-1] not in FEW
        or torch.is_grad_enabled()
        or torch.compiler.is_compiling()
    ):
        return F.linear(x, weight, bias)
    out = (weight @ x.reshape(-1, x.shape[-1]).t()).t().contiguous().view(*x.shape[:-1], -1)
    return out if bias is None else out.add_(bias)


class Linear(nn.Linear):
    """`torch.nn.Linear`, computed by `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)

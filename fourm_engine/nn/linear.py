"""Linear layers that are quick for the few rows of a step of left-to-right decoding.

In: activations (..., D) and a weight (V, D). Out: (..., V), as from `torch.nn.functional.linear`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Rows of a weight at a time, and the numbers of rows of activations for which this takes a CPU two thirds of the
#: time: up to two run at memory bandwidth either way, and more than 16 gain nothing.
PART, FEW = 384, range(3, 17)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + b."""
    if (
        x.device.type != "cpu"
        or len(weight) <= PART
        or torch.is_grad_enabled()
        or x.numel() // x.shape[-1] not in FEW
        or torch.compiler.is_compiling()
    ):
        return F.linear(x, weight, bias)
    out = torch.cat([F.linear(x, part) for part in weight.split(PART)], dim=-1)
    return out if bias is None else out.add_(bias)


class Linear(nn.Linear):
    """`torch.nn.Linear`, computed by `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)

"""Initial values of parameters, as a pure function of the seed and a parameter's name.

Any rows of a parameter can be filled, on any device. Values are drawn on the CPU in blocks, each with its own
generator, so that a process draws little more than the rows that it holds, and the values do not depend on the number
of processes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

#: Numbers drawn at a time.
BLOCK = 1 << 20


@dataclass(frozen=True)
class Initial:
    """Gaussian numbers of standard deviation `scale`, uniform ones within ±`scale`, or `scale` itself."""

    kind: Literal["gaussian", "uniform", "constant"]
    scale: float

    @torch.no_grad()
    def fill(self, part: Tensor, name: str, *, seed: int, first: int = 0, total: int | None = None) -> None:
        """Fill `part`, rows [first, first + len(part)) of the `total` rows of the parameter `name`; None: the whole
        parameter."""
        if self.kind == "constant" or not part.numel():
            part.fill_(self.scale)
            return
        part = part if part.ndim else part[None]
        total = len(part) if total is None else total
        rows = min(total, max(1, BLOCK // part[0].numel()))  # of a block
        end = first + len(part)
        for block in range(first // rows, -(-end // rows)):
            digest = hashlib.blake2b(f"{seed} {name} {block}".encode(), digest_size=8).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
            drawn = torch.empty(rows, *part.shape[1:], device="cpu")
            if self.kind == "gaussian":
                drawn.normal_(std=self.scale, generator=generator)
            else:
                drawn.uniform_(-self.scale, self.scale, generator=generator)
            begin = block * rows
            low, high = max(first, begin), min(end, begin + rows)
            part[low - first : high - first].copy_(drawn[low - begin : high - begin])

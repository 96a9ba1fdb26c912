"""Finite scalar quantisation (Mentzer et al., arXiv 2309.15505): every dimension of the latent is squashed into a range
and rounded to one of a few levels. There is no codebook to learn or restart, and no loss term.

In: latents (..., d), with a number of levels per dimension. Out: latents in [-1, 1], and ids whose digits are the
levels, the first dimension's the lowest (mixed radix).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fourm_engine.tokenizers.quantisers.base import Quantised, Quantiser, full_precision

MARGIN = 1e-3  # how far latents may exceed the outermost levels, as a share of the range


class FiniteScalarQuantiser(Quantiser):
    """`levels`: of each dimension, at least 3; their product is the number of codes. The paper recommends 8·5·5·5 for
    about 2^10 codes, 7·5·5·5·5 for 2^12, 8·8·8·6·5 for 2^14, 8·8·8·5·5·5 for 2^16."""

    levels: Tensor
    basis: Tensor
    half_range: Tensor
    offset: Tensor

    def __init__(self, levels: tuple[int, ...]) -> None:
        super().__init__(math.prod(levels), len(levels))
        basis = [math.prod(levels[:i]) for i in range(len(levels))]
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        self.register_buffer("basis", torch.tensor(basis), persistent=False)
        # An even number of levels has no middle one: they are shifted by half a level.
        half = torch.tensor([(n - 1) * (1 + MARGIN) / 2 for n in levels])
        self.register_buffer("half_range", half, persistent=False)
        self.register_buffer("offset", torch.tensor([0.0 if n % 2 else 0.5 for n in levels]), persistent=False)

    def bound(self, z: Tensor) -> Tensor:
        """Squash to the range that rounds to the levels [-(n // 2), (n - 1) // 2]; 0 stays 0."""
        shift = torch.atanh(self.offset / self.half_range)
        return torch.tanh(z.float() + shift) * self.half_range - self.offset

    def nearest(self, z: Tensor) -> Tensor:
        return self._ids(self.bound(z).round())

    def _ids(self, rounded: Tensor) -> Tensor:
        # Non-finite latents belong to a step that the trainer skips.
        digits = torch.nan_to_num(rounded).long() + self.levels // 2
        return (digits * self.basis).sum(-1)

    def lookup(self, ids: Tensor) -> Tensor:
        digits = ids[..., None] // self.basis % self.levels
        return (digits / (self.levels // 2)) - 1

    def forward(self, z: Tensor) -> Quantised:
        with full_precision(z):
            bounded = self.bound(z)
            rounded = bounded.detach().round()
            ids = self._ids(rounded)
            if self.training:
                self._count(ids)
            passed = bounded + (rounded - bounded).detach()  # straight through
            return Quantised(passed / (self.levels // 2), ids, {})

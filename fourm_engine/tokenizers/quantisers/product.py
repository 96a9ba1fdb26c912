"""Several codebooks behind one quantiser.

`ProductQuantiser`: each head quantises its part of the latent, and the heads' ids are the digits of one token, the
first head's the lowest: id = id_0 + id_1 · K + id_2 · K² + …. So heads of K codes give K^heads codes of the token
space, which a model predicts like any other token.

`PositionQuantiser`: the heads are separate tokens, for arrays with a few numbered tokens rather than the cells of a
grid: token n has codebook n, and all of them share the ids [0, size).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fourm_engine.tokenizers.quantisers.base import Quantised, Quantiser, under


class _Heads(Quantiser):
    """The common base: `heads` that learn independently."""

    def __init__(self, size: int, dim: int, heads: list[Quantiser]) -> None:
        super().__init__(size, dim, decay=heads[0].decay)
        self.heads = nn.ModuleList(heads)
        self.loss_names = heads[0].loss_names

    def each(self) -> list[Quantiser]:
        return [head for head in self.heads if isinstance(head, Quantiser)]

    @property
    def counted(self) -> bool:
        return all(head.counted for head in self.each())

    @property
    def training_state(self) -> frozenset[str]:
        of_heads = {f"heads.{i}.{name}" for i, head in enumerate(self.each()) for name in head.training_state}
        return super().training_state | of_heads

    @property
    def momentary(self) -> frozenset[str]:
        return frozenset(f"heads.{i}.{name}" for i, head in enumerate(self.each()) for name in head.momentary)

    @torch.no_grad()
    def after_step(self, step: int, steps: int) -> None:
        for head in self.each():
            head.after_step(step, steps)
        super().after_step(step, steps)

    def after_average(self, averages: Mapping[str, Tensor]) -> None:
        for i, head in enumerate(self.each()):
            head.after_average(under(f"heads.{i}.", averages))

    def mark_fitted(self) -> None:
        for head in self.each():
            head.mark_fitted()


class ProductQuantiser(_Heads):
    """Heads of equal size and width, side by side in the latent."""

    def __init__(self, heads: list[Quantiser]) -> None:
        super().__init__(heads[0].size ** len(heads), sum(head.dim for head in heads), heads)
        self.radix = heads[0].size

    def _parts(self, z: Tensor) -> list[tuple[Quantiser, Tensor]]:
        return list(zip(self.each(), z.chunk(len(self.heads), dim=-1), strict=True))

    def _combine(self, ids: list[Tensor]) -> Tensor:
        return torch.stack([digit * self.radix**power for power, digit in enumerate(ids)]).sum(0)

    def nearest(self, z: Tensor) -> Tensor:
        return self._combine([head.nearest(part) for head, part in self._parts(z)])

    def lookup(self, ids: Tensor) -> Tensor:
        digits = [ids // self.radix**power % self.radix for power in range(len(self.heads))]
        return torch.cat([head.lookup(digit) for head, digit in zip(self.each(), digits, strict=True)], dim=-1)

    def forward(self, z: Tensor) -> Quantised:
        parts = [head(part) for head, part in self._parts(z)]
        digits = [part.ids for part in parts if part.ids is not None]
        ids = self._combine(digits) if len(digits) == len(parts) else None
        if self.training and ids is not None:
            self._count(ids)
        losses = {name: torch.stack([part.losses[name] for part in parts]).sum(0) for name in self.loss_names}
        return Quantised(torch.cat([part.latents for part in parts], dim=-1), ids, losses)

    def expected(self, probabilities: Tensor) -> Tensor:
        """From the marginal distribution of each head, instead of enumerating all combinations of codes."""
        shape, means = probabilities.shape[:-1], []
        for power, head in enumerate(self.each()):
            # (..., higher digits, this one, lower digits)
            split = probabilities.reshape(*shape, -1, self.radix, self.radix**power)
            means.append(head.expected(split.sum((-3, -1))))
        return torch.cat(means, dim=-1)


class PositionQuantiser(_Heads):
    """Latents (..., N, d) with a quantiser for each of the N positions."""

    positional = True

    def __init__(self, heads: list[Quantiser]) -> None:
        super().__init__(heads[0].size, heads[0].dim, heads)

    def nearest(self, z: Tensor) -> Tensor:
        return torch.stack([head.nearest(z[..., n, :]) for n, head in enumerate(self.each())], dim=-1)

    def lookup(self, ids: Tensor) -> Tensor:
        return torch.stack([head.lookup(ids[..., n]) for n, head in enumerate(self.each())], dim=-2)

    def forward(self, z: Tensor) -> Quantised:
        parts = [head(z[..., n, :]) for n, head in enumerate(self.each())]
        known = [part.ids for part in parts if part.ids is not None]
        losses = {name: torch.stack([part.losses[name] for part in parts], dim=-1) for name in self.loss_names}
        ids = torch.stack(known, dim=-1) if len(known) == len(parts) else None
        return Quantised(torch.stack([part.latents for part in parts], dim=-2), ids, losses)

    def expected(self, probabilities: Tensor) -> Tensor:
        return torch.stack([head.expected(probabilities[..., n, :]) for n, head in enumerate(self.each())], dim=-2)

    def progress(self) -> dict[str, Tensor]:
        """Means over the positions; dead codes summed over them."""
        each = [head.progress() for head in self.each()]
        total = {name: torch.stack([use[name] for use in each]).sum() for name in each[0]}
        return {name: value if name == "dead codes" else value / len(each) for name, value in total.items()}

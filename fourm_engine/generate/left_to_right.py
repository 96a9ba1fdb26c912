"""Decodes sequences token by token.

In: a network with its cache (`Cached`), random numbers, ids that end a sequence. Out: the tokens, and the model's
probability of each.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

from fourm_engine.generate.cached import Cached
from fourm_engine.generate.guidance import Guide, progress
from fourm_engine.generate.sampling import draw, likeliest, log_probability


@dataclass(frozen=True)
class Drawing:
    """How tokens are drawn. Temperature 0 takes the most likely one."""

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None


class TokenStep:
    """The next token of each of B sequences of at most L; see `graphs.Step`.

    Args:
        guided: another model to guide away from.
        start: the id that precedes the first token; `stop`: the ids that end a sequence.
        uniform_BL: float32 in [0, 1)."""

    def __init__(
        self,
        cached: Cached,
        guided: tuple[Guide, Cached] | None,
        drawing: Drawing,
        *,
        start: int,
        stop: Collection[int],
        uniform_BL: Tensor,
    ) -> None:
        self.sides, self.drawing = [cached] if guided is None else [cached, guided[1]], drawing
        limit, device, batch = len(cached.shares_LKB), uniform_BL.device, cached.batch
        weights = [] if guided is None else [guided[0].at(progress(step, limit)) for step in range(limit)]
        self.weight_L = torch.tensor(weights, dtype=torch.float32, device=device)
        self.heat_B = torch.full((batch,), drawing.temperature, device=device) if drawing.temperature > 0 else None
        self.stops = torch.tensor(sorted(stop), dtype=torch.int64, device=device)
        self.uniform_BL = uniform_BL[:, :limit].clone()
        self.ids_BL = torch.zeros(batch, limit, dtype=torch.int64, device=device)
        self.sure_BL = torch.zeros(batch, limit, device=device)
        self.id_B = torch.full((batch,), start, device=device)
        self.done_B = torch.zeros(batch, dtype=torch.bool, device=device)
        self.index_1 = torch.zeros(1, dtype=torch.int64, device=device)

    def __call__(self, step: int | None = None) -> None:
        """Decode one token. `step`: number of preceding tokens; by default `index_1`, which is then incremented."""
        index = self.index_1 if step is None else step
        at = self.index_1 if step is None else slice(step, step + 1)
        logits_BV, *weaker = [side.logits(self.id_B, index) for side in self.sides]
        if weaker:
            logits_BV = torch.lerp(weaker[0], logits_BV, self.weight_L[at])
        if self.heat_B is None:
            id_B = likeliest(logits_BV, self.sides[0].entry.scales)
        else:
            uniform_B, how = self.uniform_BL[:, at][:, 0], self.drawing
            id_B = draw(logits_BV, uniform_B, temperature=self.heat_B, top_k=how.top_k, top_p=how.top_p)
        self.id_B.copy_(id_B)
        self.ids_BL[:, at] = id_B[:, None]
        self.sure_BL[:, at] = log_probability(logits_BV, id_B).exp()[:, None]
        self.done_B |= (id_B[:, None] == self.stops).any(1)  # `isin` would synchronise
        if step is None:
            self.index_1 += 1

    def tensors(self) -> list[Tensor]:
        heat = [] if self.heat_B is None else [self.heat_B]
        read = [self.uniform_BL, self.stops, self.weight_L, *heat, self.id_B, self.done_B, self.index_1]
        return [*read, *(x for side in self.sides for x in side.tensors())]

    def memory(self) -> int:
        blocks = [block for side in self.sides for block in side.cache.blocks]
        held = [*self.tensors(), *(x for block in blocks for x in (block.self_k_RHLd, block.self_v_RHLd))]
        return sum(x.numel() * x.element_size() for x in [*held, self.ids_BL, self.sure_BL])

    def kind(self) -> Hashable:
        groups = tuple((g.first, g.count, g.rows, g.mask is None) for side in self.sides for g in side.cache.contexts)
        return self.sides[0].entry.name, self.drawing.top_k, self.drawing.top_p, self.heat_B is None, groups

"""Decodes sequences token by token.

In: a network with its cache (`CachedDecoder`), random numbers, ids that end a sequence. Out: the tokens, and the
model's probability of each.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

from fourm_engine.generate.cached import CachedDecoder
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
        cached: CachedDecoder,
        guided: tuple[Guide, CachedDecoder] | None,
        drawing: Drawing,
        *,
        start: int,
        stop: Collection[int],
        uniform_BL: Tensor,
    ) -> None:
        self.decoders, self.drawing = [cached] if guided is None else [cached, guided[1]], drawing
        limit, device, batch = len(cached.coefficient_LKB), uniform_BL.device, cached.batch
        weights = [] if guided is None else [guided[0].at(progress(step, limit)) for step in range(limit)]
        self.weight_L = torch.tensor(weights, dtype=torch.float32, device=device)
        self.temperature_B = (
            torch.full((batch,), drawing.temperature, device=device) if drawing.temperature > 0 else None
        )
        self.stops = torch.tensor(sorted(stop), dtype=torch.int64, device=device)
        self.uniform_BL = uniform_BL[:, :limit].clone()
        self.ids_BL = torch.zeros(batch, limit, dtype=torch.int64, device=device)
        self.confidence_BL = torch.zeros(batch, limit, device=device)
        self.id_B = torch.full((batch,), start, device=device)
        self.done_B = torch.zeros(batch, dtype=torch.bool, device=device)
        self.index_1 = torch.zeros(1, dtype=torch.int64, device=device)

    def __call__(self, step: int | None = None) -> None:
        """Decode one token. `step`: number of preceding tokens; by default `index_1`, which is then incremented."""
        index = self.index_1 if step is None else step
        at = self.index_1 if step is None else slice(step, step + 1)
        logits_BV, *weaker = [decoder.logits(self.id_B, index) for decoder in self.decoders]
        if weaker:
            logits_BV = torch.lerp(weaker[0], logits_BV, self.weight_L[at])
        if self.temperature_B is None:
            id_B = likeliest(logits_BV, self.decoders[0].entry.ordinal_ranges)
        else:
            uniform_B, how = self.uniform_BL[:, at][:, 0], self.drawing
            id_B = draw(logits_BV, uniform_B, temperature=self.temperature_B, top_k=how.top_k, top_p=how.top_p)
        self.id_B.copy_(id_B)
        self.ids_BL[:, at] = id_B[:, None]
        self.confidence_BL[:, at] = log_probability(logits_BV, id_B).exp()[:, None]
        self.done_B |= (id_B[:, None] == self.stops).any(1)  # `isin` would synchronise
        if step is None:
            self.index_1 += 1

    def tensors(self) -> list[Tensor]:
        temperature = [] if self.temperature_B is None else [self.temperature_B]
        read = [self.uniform_BL, self.stops, self.weight_L, *temperature, self.id_B, self.done_B, self.index_1]
        return [*read, *(x for decoder in self.decoders for x in decoder.tensors())]

    def memory(self) -> int:
        blocks = [block for decoder in self.decoders for block in decoder.cache.blocks]
        held = [*self.tensors(), *(x for block in blocks for x in (block.self_k_RHLd, block.self_v_RHLd))]
        return sum(x.numel() * x.element_size() for x in [*held, self.ids_BL, self.confidence_BL])

    def kind(self) -> Hashable:
        groups = tuple(
            (g.first, g.count, g.rows, g.mask is None) for decoder in self.decoders for g in decoder.cache.contexts
        )
        return self.decoders[0].entry.name, self.drawing.top_k, self.drawing.top_p, self.temperature_B is None, groups

"""Generation as one would first write it: each step and branch encodes and decodes everything, one after the other.

In: a network, what is given of each sample (name -> `Shown`), uniform numbers. Out: tokens. `benchmarks/generation.py`
compares the engine's sampler with it, in time and token by token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fourm_engine.batch import Tokens
from fourm_engine.masking.pack import Shown, pack_inputs
from fourm_engine.nn.transformer import Transformer
from fourm_engine.vocabulary import Entry, Vocabulary

Given = Sequence[Mapping[str, Shown]]


def draw(logits: Tensor, uniform: Tensor, temperature: float, top_p: float) -> Tensor:
    """One id a row, from a nucleus that sorts the whole vocabulary; temperature 0 takes the likeliest."""
    if temperature == 0:
        return logits.argmax(-1)
    p = ((logits - logits.amax(-1, keepdim=True)) / temperature).exp()
    falling, index = p.sort(dim=-1, descending=True, stable=True)
    before = falling.cumsum(-1, dtype=torch.float64) - falling
    dropped = before >= top_p * falling.sum(-1, keepdim=True, dtype=torch.float64)
    p = p.masked_fill(torch.zeros_like(dropped).scatter(-1, index, dropped), 0.0)
    cumulative = p.cumsum(-1, dtype=torch.float64)
    return torch.searchsorted(cumulative, uniform.double()[..., None] * cumulative[..., -1:], right=True)[..., 0]


class Obvious:
    def __init__(self, network: Transformer, vocabulary: Vocabulary) -> None:
        self.network, self.vocabulary = network, vocabulary

    def _context(self, given: Given, ids: Tensor, known: Tensor, entry: Entry) -> tuple[Tensor, Tensor]:
        """The encoder over what is given and a slot for every token of the target, unknown ones masked."""
        device = ids.device
        base, continuous = pack_inputs(given, self.vocabulary, max(sum(map(len, s.values())) for s in given), device)
        position = torch.arange(ids.shape[1], device=device).expand_as(ids)
        target = [torch.where(known, ids + entry.start, -1), position, torch.where(known, entry.index, -1)]
        fields = zip(vars(base).values(), [*target, torch.zeros_like(ids)], strict=True)
        return self.network.encode(Tokens(*(torch.cat(pair, 1) for pair in fields)), continuous)

    def _guided(self, given: Given, weight: float, logits) -> Tensor:
        """u + w (c − u); `logits(given)` is of one branch."""
        conditioned = logits(given)
        if weight == 1:
            return conditioned
        unconditioned = logits([{} for _ in given])
        return unconditioned + weight * (conditioned - unconditioned)

    @torch.inference_mode()
    def parallel(
        self,
        given: Given,
        target: str,
        counts: Sequence[int],
        uniform: Tensor,
        *,
        priority: Tensor | None = None,
        weight: float = 1.0,
        temperature: float = 1.0,
        top_p: float = 1.0,
    ) -> Tensor:
        """(B, n) tokens of a grid. Step i reveals `counts[i]`: the most confident, or those of the highest `priority`
        (B, n). `uniform`: (B, steps, n)."""
        entry, (batch, _, n) = self.vocabulary[target], uniform.shape
        ids = torch.zeros(batch, n, dtype=torch.int64, device=uniform.device)
        known = torch.zeros_like(ids, dtype=torch.bool)
        position = torch.arange(n, device=ids.device).expand_as(ids)
        for step, count in enumerate(counts):
            predicted = ~known
            if priority is not None:  # what is chosen beforehand is predicted by itself, as in training
                chosen = priority.masked_fill(known, -torch.inf).argsort(dim=-1, descending=True, stable=True)
                predicted = torch.zeros_like(known).scatter(1, chosen[:, :count], True)

            def logits(given: Given) -> Tensor:
                context, valid = self._context(given, ids, known, entry)
                mod = torch.where(predicted, entry.index, -1)  # noqa: B023
                masked = Tokens(torch.full_like(ids, -1), position, mod, torch.zeros_like(ids))
                return self.network.logits(self.network.decode(masked, context, valid), target).float()

            guided = self._guided(given, weight, logits)
            new = draw(guided, uniform[:, step], temperature, top_p)
            score = guided.log_softmax(-1).gather(-1, new[..., None])[..., 0] if priority is None else priority
            ranked = score.masked_fill(known, -torch.inf).argsort(dim=-1, descending=True, stable=True)[:, :count]
            ids.scatter_(1, ranked, new.gather(1, ranked))
            known.scatter_(1, ranked, True)
        return ids

    @torch.inference_mode()
    def sequence(
        self,
        given: Given,
        target: str,
        start: int,
        uniform: Tensor,
        *,
        weight: float = 1.0,
        temperature: float = 1.0,
        top_p: float = 1.0,
    ) -> Tensor:
        """(B, L) tokens of a sequence, from `start` on; nothing ends it. `uniform`: (B, L)."""
        entry, (batch, length) = self.vocabulary[target], uniform.shape
        ids = torch.full((batch, length + 1), start, device=uniform.device)
        rank = torch.arange(length, device=ids.device).expand(batch, length)
        for step in range(length):

            def logits(given: Given) -> Tensor:
                slots = max(max(sum(map(len, s.values())) for s in given), 1)
                context, valid = self.network.encode(*pack_inputs(given, self.vocabulary, slots, ids.device))
                # All of it, as if it were there: a token sees those before it and no other.
                whole = Tokens(ids[:, :length] + entry.start, rank, torch.full_like(rank, entry.index), rank)
                y = self.network.decode(whole, context, valid)[:, step]  # noqa: B023
                return self.network.logits(y, target).float()

            ids[:, step + 1] = draw(self._guided(given, weight, logits), uniform[:, step], temperature, top_p)
        return ids[:, 1:]

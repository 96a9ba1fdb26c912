"""The engine's decoding orders beyond MaskGIT, each written as a package would write it: Halton, remasking, entropy.

In: what a step predicted (`fourm_plugins.order.Predicted`). Out: which tokens stay, how many, and which are forgotten.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fourm_plugins.order import DecodingOrder, Predicted
from fourm_plugins.spec import Grid, Layout


class Halton(DecodingOrder):
    """Visits tokens in the order in which the Halton sequence (bases 2 and 3) reaches their cells, so that the tokens
    of a step lie far apart ("Halton scheduler", arXiv 2503.17076). The order is known beforehand: a step decodes only
    the tokens that it keeps."""

    def beforehand(self) -> Tensor:
        n, grid = self.layout.num_tokens, self.layout
        rows, columns = (grid.height, grid.width) if isinstance(grid, Grid) else (1, n)
        rank, i = dict[int, int](), 1
        while len(rank) < n:
            cell = int(rows * _radical_inverse(i, 3)) * columns + int(columns * _radical_inverse(i, 2))
            rank.setdefault(cell, len(rank))
            i += 1
        return -torch.tensor([rank[cell] for cell in range(n)], dtype=torch.float32)


def _radical_inverse(i: int, base: int) -> float:
    value, scale = 0.0, 1 / base
    while i:
        i, digit = divmod(i, base)
        value, scale = value + digit * scale, scale / base
    return value


class Remask(DecodingOrder):
    """MaskGIT that revises itself (ReMDM, arXiv 2503.00307): each step but the last forgets the fraction `share` of the
    tokens known before it, drawn without replacement with weights exp(−p), p the model's probability when the token was
    drawn. The number of steps stays the budget: after each step as many tokens are known as its schedule says, less
    those just forgotten."""

    def __init__(self, layout: Layout, share: float = 0.1) -> None:
        super().__init__(layout)
        if not 0 < share <= 1:
            raise ValueError(f"share is above 0 and at most 1; given: {share}")
        self.share = share

    def forget(self, predicted: Predicted) -> Tensor | None:
        movable = ~predicted.unknown & ~predicted.given
        count = int(self.share * int(movable.sum()))
        if count == 0:
            return None
        # The top k of log-weight + Gumbel noise are a draw without replacement.
        noise = -(-predicted.uniform.clamp(1e-7, 1 - 1e-7).log()).log()
        scores = (noise - predicted.confidence.exp()).masked_fill(~movable, -torch.inf)
        forgotten = torch.zeros_like(movable)
        forgotten[scores.topk(count).indices] = True
        return forgotten


class Entropy(DecodingOrder):
    """Keeps the tokens of lowest entropy, as many as the model is sure of: while their entropies, except the largest,
    sum to at most `bound` nats ("entropy-bounded unmasking", arXiv 2505.24857), and never fewer than the schedule says.
    A sample ends when all its tokens are known; `steps` is the maximum."""

    adaptive = True

    def __init__(self, layout: Layout, bound: float = 1.0) -> None:
        super().__init__(layout)
        if not (bound >= 0 and math.isfinite(bound)):
            raise ValueError(f"bound is a number of nats, 0 or more; given: {bound}")
        self.bound = bound

    def score(self, predicted: Predicted) -> Tensor:
        scores = torch.zeros_like(predicted.confidence)
        scores[predicted.unknown] = -_entropy(predicted.logits)
        return scores

    def count(self, predicted: Predicted) -> int:
        rising = _entropy(predicted.logits).sort().values.double()
        return int((rising.cumsum(0) - rising <= self.bound).sum())


def _entropy(logits: Tensor) -> Tensor:
    """(u, V) -> float32 (u,) nats."""
    log_p = logits.float().log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)

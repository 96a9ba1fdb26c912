"""Decoding orders beyond MaskGIT: Halton, remasking, entropy. All use the public interface for packages.

In: the predictions of a step (`fourm_plugins.order.Predicted`). Out: which tokens to keep, how many, and which to
forget.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fourm_plugins.order import DecodingOrder, Predicted
from fourm_plugins.spec import Grid, Layout


class Halton(DecodingOrder):
    """Visits tokens in the order in which the Halton sequence (bases 2 and 3) reaches their cells, so that the tokens
    of a step lie far apart ("Halton scheduler", arXiv 2503.17076). The order is fixed in advance, so each step decodes
    only the tokens that it keeps."""

    def fixed_scores(self) -> Tensor:
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
    """MaskGIT with remasking (ReMDM, arXiv 2503.00307): each step but the last forgets the fraction `share` of the
    tokens known before it, drawn without replacement with weights exp(−p), where p is the model's probability of the
    token when it was drawn. The number of steps stays the same: after each, as many tokens are known as the schedule
    says, minus those just forgotten."""

    def __init__(self, layout: Layout, share: float = 0.1) -> None:
        super().__init__(layout)
        if not 0 < share <= 1:
            raise ValueError(f"share is above 0 and at most 1; given: {share}")
        self.share = share

    def remask(self, predicted: Predicted) -> Tensor | None:
        movable = ~predicted.unknown & ~predicted.given
        count = int(self.share * int(movable.sum()))
        if count == 0:
            return None
        # The top k of log-weight + Gumbel noise are a sample without replacement.
        noise = -(-predicted.uniform.clamp(1e-7, 1 - 1e-7).log()).log()
        scores = (noise - predicted.confidence.exp()).masked_fill(~movable, -torch.inf)
        forgotten = torch.zeros_like(movable)
        forgotten[scores.topk(count).indices] = True
        return forgotten


class Entropy(DecodingOrder):
    """Keeps the tokens of lowest entropy: as many as possible while their entropies, except the largest, sum to at most
    `bound` nats ("entropy-bounded unmasking", arXiv 2505.24857), and at least as many as the schedule says. A sample is
    done when all its tokens are known; `steps` is the maximum."""

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

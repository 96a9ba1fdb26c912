"""Samplers: divide a total of tokens among the modalities of a sample.

"dirichlet" (4M, arXiv 2312.06647, section 2.3): p ~ Dirichlet(alpha), counts = floor(p N), and every remaining token
goes to the largest entry of a separate Dirichlet draw.

"fill" divides likewise, but what a modality cannot take is passed on to others, so that no slot of a batch is empty
while tokens are available; a total of at least all tokens takes all.

"aion", for modalities of very different lengths, after AION-1 (arXiv 2510.17960): of the inputs, one modality takes a
uniform number of tokens, and the rest of the budget is filled from the others; of the targets, each modality has a
Beta-distributed share. The details are ours: the first modality is drawn with the alphas as weights, and takes from 1
to all of its tokens that the budget allows; tokens of the others are drawn uniformly without replacement, so that long
modalities fill more; the Beta distribution is of the share of a modality's remaining tokens, stochastically rounded
without bias; modalities are served in random order, weighted by the alphas, until the total is used up; and if all
shares round to 0, the first modality served gets 1 token.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fourm_engine.masking.config import Sampler


@dataclass(frozen=True)
class Pool:
    """One side of a component (inputs or targets), restricted to the modalities of a sample."""

    names: tuple[str, ...]
    index: np.ndarray  # (n,) int64, index of the modality in the run
    alphas: np.ndarray  # (n,) float64, all > 0
    caps: np.ndarray  # (n,) int64
    least: np.ndarray  # (n,) int64
    tries: int  # 1 without a minimum, or with one that cannot be met
    sampler: Sampler
    beta: tuple[float, float] | None  # of targets with "aion"

    def draw(self, rng: np.random.Generator, low: int, high: int, taken: np.ndarray | None = None) -> np.ndarray:
        """Counts (n,) int64 within the caps, of which `taken` (n,) are used up. The last try is used, as in the
        published code."""
        total = int(rng.integers(low, high + 1))
        free = self.caps if taken is None else np.maximum(self.caps - taken, 0)
        for _ in range(self.tries):
            counts = np.minimum(self._divide(rng, total, free), free)
            if self.tries == 1 or (counts >= self.least).all():
                break
        return counts

    def _divide(self, rng: np.random.Generator, total: int, free: np.ndarray) -> np.ndarray:
        if not self.names or not total:
            return np.zeros(len(self.names), np.int64)
        if self.sampler == "dirichlet":
            return dirichlet(rng, self.alphas, total)
        if self.sampler == "fill":
            return fill(rng, self.alphas, total, free)
        if self.beta is None:
            return one_and_fill(rng, self.alphas, total, free)
        return beta_shares(rng, self.alphas, total, free, self.beta)


def dirichlet(rng: np.random.Generator, alphas: np.ndarray, total: int) -> np.ndarray:
    """Divide `total` tokens among n modalities: (n,) int64."""
    if len(alphas) == 1:
        return np.array([total], np.int64)
    # float32 as published: a share within half an ulp of 1 takes the whole budget.
    share = rng.dirichlet(alphas).astype(np.float32)
    counts = np.floor(share * np.float32(total)).astype(np.int64)
    left = total - int(counts.sum())
    if left > 0:
        counts += np.bincount(rng.dirichlet(alphas, size=left).argmax(1), minlength=len(counts))
    return counts


def fill(rng: np.random.Generator, alphas: np.ndarray, total: int, free: np.ndarray) -> np.ndarray:
    """Divide `total` tokens among n modalities that have `free` (n,): (n,) int64, less than `total` only if all free
    tokens are taken."""
    counts = np.zeros_like(free)
    while (left := min(total, int(free.sum())) - int(counts.sum())) > 0:
        open_ = np.flatnonzero(counts < free)
        counts[open_] += dirichlet(rng, alphas[open_], left)
        counts = np.minimum(counts, free)
    return counts


def one_and_fill(rng: np.random.Generator, weights: np.ndarray, total: int, free: np.ndarray) -> np.ndarray:
    """At most `total` tokens from n modalities that have `free` (n,): a uniform number from one of them, the rest from
    the others. (n,) int64."""
    counts, weights = np.zeros_like(free), np.where(free > 0, weights, 0.0)
    if not weights.any():
        return counts
    first = rng.choice(len(free), p=weights / weights.sum())
    counts[first] = rng.integers(1, min(free[first], total) + 1)
    others = free.copy()
    others[first] = 0
    fill = min(total - int(counts[first]), int(others.sum()))
    return counts + rng.multivariate_hypergeometric(others, fill)


def beta_shares(
    rng: np.random.Generator, weights: np.ndarray, total: int, free: np.ndarray, beta: tuple[float, float]
) -> np.ndarray:
    """At most `total` tokens from n modalities that have `free` (n,): a Beta-distributed share of each, in random order
    until the total is used up. (n,) int64."""
    order = np.argsort(rng.exponential(size=len(free)) / weights)
    wanted = np.floor(rng.beta(*beta, size=len(free)) * free + rng.random(len(free))).astype(np.int64)[order]
    if not wanted.any():
        first = np.argmax(free[order] > 0)
        wanted[first] = min(1, free[order][first])
    before = np.minimum(wanted.cumsum() - wanted, total)
    counts = np.empty_like(free)
    counts[order] = np.minimum(wanted, total - before)
    return counts

"""Drawing tokens from logits, and choosing which of them to keep.

In: logits (..., V) and uniform numbers drawn beforehand, one a token. Out: ids and their log-probabilities. Every
sample of a batch has a generator of its own, so that its result depends neither on its place in the batch nor on its
company.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One CPU generator a sample; the device changes nothing in what is drawn."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def uniforms(rngs: Sequence[torch.Generator], *shape: int, device: torch.device | str = "cpu") -> Tensor:
    """(B, *shape) float32 in [0, 1), row b from generator b."""
    return torch.stack([torch.rand(shape, generator=rng) for rng in rngs]).to(device)


def filter_logits(logits: Tensor, *, top_k: int | None = None, top_p: float | None = None) -> Tensor:
    """Logits (..., V) with −inf for what may not be drawn.

    `top_k` keeps the k likeliest (and what ties with the k-th). `top_p` then keeps the fewest tokens that together hold
    at least the probability `top_p` (nucleus sampling, arXiv 1904.09751); the likeliest always stays."""
    if top_k is not None and top_k < logits.shape[-1]:
        threshold = logits.topk(top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < threshold, -torch.inf)
    if top_p is not None and top_p < 1:
        ordered, index = logits.sort(dim=-1, descending=True, stable=True)
        p = ordered.softmax(-1)
        drop = (p.cumsum(-1) - p) >= top_p
        drop[..., 0] = False  # rounding must not drop all
        logits = logits.masked_fill(torch.zeros_like(drop).scatter(-1, index, drop), -torch.inf)
    return logits


def draw(
    logits: Tensor, uniform: Tensor, *, temperature: Tensor | None, top_k: int | None = None, top_p: float | None = None
) -> Tensor:
    """One id a row of logits, by inverting the cumulative distribution at `uniform`.

    Args:
        logits: (..., V) float.
        uniform: (...) float32 in [0, 1).
        temperature: broadcastable to (...), > 0; None takes the likeliest id.

    Returns:
        ids: (...) int64."""
    if temperature is None:
        return logits.argmax(-1)
    # The maximum goes first, so that a tiny temperature makes -inf of the others and never inf - inf.
    logits = logits.float() - logits.float().amax(-1, keepdim=True)
    logits = logits / temperature[..., None]
    p = filter_logits(logits, top_k=top_k, top_p=top_p).softmax(-1)
    cumulative = p.cumsum(-1)
    total = cumulative[..., -1:]
    # Strictly below the total: then the first entry above it is one of positive probability.
    level = torch.minimum(uniform[..., None] * total, total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(cumulative, level, right=True)[..., 0]


def log_probability(logits: Tensor, ids: Tensor) -> Tensor:
    """log softmax(logits)[id], float32 (...): the model's own confidence, before temperature and filters."""
    chosen = logits.gather(-1, ids[..., None])[..., 0]
    return chosen.float() - logits.float().logsumexp(-1)


def most_confident(confidence_BM: Tensor, valid_BM: Tensor, count_B: Tensor) -> Tensor:
    """bool (B, M): the `count_B[b]` most confident valid entries of row b, earlier ones first among equals
    (MaskGIT)."""
    order = confidence_BM.masked_fill(~valid_BM, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    places = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(-1, order, places)
    return (rank < count_B[:, None]) & valid_BM

"""Samples tokens from logits, and chooses which of them to keep.

In: logits (..., V), and uniform numbers drawn beforehand, one per token. Out: ids and their log-probabilities. Each
sample has a generator, so its result depends neither on its index in the batch nor on the other samples. On a CPU, the
whole vocabulary is sorted only where top-p keeps more than an eighth of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fourm_engine.device import on_host

#: Numbers processed at a time on a CPU: about as many as its caches hold.
_CHUNK = 2**18
#: Rows up to which a GPU sorts whole vocabularies; with more, selecting the largest probabilities is quicker.
_SORTED = 128
#: Probabilities are summed in blocks of this size.
_BLOCK = 128


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One CPU generator per sample, so that the device does not affect what is drawn."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def uniforms(rngs: Sequence[torch.Generator], *shape: int, device: torch.device | str = "cpu") -> Tensor:
    """(B, *shape) float32 in [0, 1), row b from generator b."""
    return torch.stack([torch.rand(shape, generator=rng) for rng in rngs]).to(device)


def draw(
    logits: Tensor, uniform: Tensor, *, temperature: Tensor | None, top_k: int | None = None, top_p: float | None = None
) -> Tensor:
    """Draw one id per row of logits, by inverting the cumulative distribution at `uniform`, in float64.

    `top_k` keeps the k most likely tokens (and ties with the k-th). `top_p` then keeps the fewest tokens whose total
    probability reaches `top_p` (nucleus sampling, arXiv 1904.09751), the first among ties, and always the most likely.

    Args:
        logits: (..., V) float.
        uniform: (...) float32 in [0, 1).
        temperature: broadcastable to (...), > 0; None takes the most likely id.

    Returns:
        ids: (...) int64."""
    if temperature is None:
        return logits.argmax(-1)
    rows_RV, temperature_R = logits.flatten(0, -2), temperature.expand(uniform.shape).flatten()
    chunk = max(1, _CHUNK // logits.shape[-1]) if logits.device.type == "cpu" else max(1, len(rows_RV))
    parts = zip(rows_RV.split(chunk), uniform.flatten().split(chunk), temperature_R.split(chunk), strict=True)
    ids = [
        _invert(filter_top_k_top_p(_relative(x, temperature), top_k=top_k, top_p=top_p), u)
        for x, u, temperature in parts
    ]
    return torch.cat(ids).view(uniform.shape) if ids else uniform.long()


def likeliest(logits_RV: Tensor, ordinal_ranges: Sequence[range] = ()) -> Tensor:
    """The most likely id of each row, int64 (R,). The probabilities of all ids of one of `ordinal_ranges` are added
    up: many of them are nearly as likely, so another id, such as the end of a text, would otherwise win too early."""
    if not ordinal_ranges:
        return logits_RV.argmax(-1)
    steps = [logits_RV[:, ids.start : ids.stop] for ids in ordinal_ranges]
    total_R, which_R = torch.stack([x.logsumexp(-1) for x in steps], 1).max(1)
    best_RS = torch.stack([x.argmax(-1) + ids.start for x, ids in zip(steps, ordinal_ranges, strict=True)], 1)
    alone_RV = logits_RV.clone()
    for ids in ordinal_ranges:
        alone_RV[:, ids.start : ids.stop] = -torch.inf
    other_R, id_R = alone_RV.max(-1)
    return torch.where(total_R > other_R, best_RS.gather(1, which_R[:, None])[:, 0], id_R)


def _relative(logits_RV: Tensor, temperature_R: Tensor) -> Tensor:
    """Probabilities relative to the most likely id, float32."""
    x = logits_RV.float()
    # Subtracting the maximum first, a tiny temperature gives -inf for the others and never inf - inf.
    x = (x - x.amax(-1, keepdim=True)).div_(temperature_R[:, None])
    return F.threshold(x, -87.0, -torch.inf, inplace=True).exp_()  # denormals make a CPU ten times slower


def filter_top_k_top_p(p_RV: Tensor, *, top_k: int | None = None, top_p: float | None = None) -> Tensor:
    """Unnormalised probabilities, float32 (R, V), with 0 for tokens that `top_k` and `top_p` exclude; see `draw`."""
    vocabulary = p_RV.shape[-1]
    if top_k is not None and top_k < vocabulary:
        p_RV = _at_least(p_RV, _kth_largest(p_RV, top_k)[:, None])
    if top_p is None or top_p >= 1:
        return p_RV
    if not on_host(p_RV):
        return _nucleus(p_RV, top_p)
    # The largest eighth contains the nucleus of most rows; only the other rows are fully sorted.
    few, values = vocabulary // 8, p_RV.numpy()
    level_R = top_p * values.sum(-1, dtype=np.float64)
    largest = np.partition(values, vocabulary - few, axis=-1)[:, vocabulary - few :] if few else values[:, :0]
    enough = largest.sum(-1, dtype=np.float64) > level_R
    threshold, equals = np.empty((len(values), 1), np.float32), np.empty((len(values), 1), np.int64)
    for rows, part in ((enough, largest), (~enough, values)):
        if rows.any():
            threshold[rows], equals[rows] = _smallest_kept(np.sort(part[rows], axis=-1), level_R[rows])
    threshold_R1, equals_R1 = torch.from_numpy(threshold), torch.from_numpy(equals)
    out = _at_least(p_RV, threshold_R1)
    if (tied := equals_R1[:, 0] > 0).any():
        out[tied] = _above(p_RV[tied], threshold_R1[tied], equals_R1[tied])
    return out


def _at_least(p_RV: Tensor, threshold_R1: Tensor) -> Tensor:
    """`p_RV` from the threshold on, 0 below: on a CPU a quarter of the time of `masked_fill`, half of `where`."""
    return p_RV.clone().ge_(threshold_R1).mul_(p_RV)


def _kth_largest(p_RV: Tensor, k: int) -> Tensor:
    if not on_host(p_RV):
        return p_RV.topk(k, dim=-1).values[:, -1]
    at = p_RV.shape[-1] - k
    return torch.from_numpy(np.partition(p_RV.numpy(), at, axis=-1)[:, at].copy())


def _smallest_kept(rising_RK: np.ndarray, level_R: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the fewest largest values of each row whose sum reaches `level_R`: the smallest, (R, 1), and how many equal it
    if further values outside may equal it too, else 0. `rising_RK`: the K largest values, ascending."""
    ends_RK = torch.from_numpy(rising_RK).cumsum(-1, dtype=torch.float64).numpy()  # several times as fast as NumPy
    first = (ends_RK[:, -1:] - ends_RK >= level_R[:, None]).sum(-1, keepdims=True)
    threshold = np.take_along_axis(rising_RK, first, -1)
    tied = np.take_along_axis(rising_RK, np.maximum(first - 1, 0), -1) == threshold
    equals = np.zeros_like(first)
    for r in np.flatnonzero(tied):
        equals[r] = np.searchsorted(rising_RK[r], threshold[r, 0], side="right") - first[r]
    return threshold, equals


def _nucleus(p_RV: Tensor, top_p: float) -> Tensor:
    """`filter_top_k_top_p` on an asynchronous device; synchronises only if there are many rows."""
    rows, vocabulary = p_RV.shape
    level_R1 = top_p * p_RV.sum(-1, keepdim=True, dtype=torch.float64)
    recorded = p_RV.device.type == "cuda" and torch.cuda.is_current_stream_capturing()
    if rows <= _SORTED or vocabulary < 16 or recorded:
        return _above(p_RV, *_threshold(p_RV.sort(dim=-1, descending=True).values, level_R1))
    largest = p_RV.topk(vocabulary // 16, dim=-1).values
    threshold_R1, equals_R1 = _threshold(largest, level_R1)
    larger_R = largest.sum(-1, dtype=torch.float64) <= level_R1[:, 0]
    if bool(larger_R.any()):
        all_of_it = p_RV[larger_R].sort(dim=-1, descending=True).values
        threshold_R1[larger_R], equals_R1[larger_R] = _threshold(all_of_it, level_R1[larger_R])
    tied = (p_RV == threshold_R1).sum(-1, keepdim=True) > equals_R1
    return _above(p_RV, threshold_R1, equals_R1) if bool(tied.any()) else p_RV.masked_fill(p_RV < threshold_R1, 0.0)


def _threshold(falling_RK: Tensor, level_R1: Tensor) -> tuple[Tensor, Tensor]:
    """Like `_smallest_kept`, for the largest probabilities in descending order, whose sum reaches the level."""
    ends_RK = falling_RK.cumsum(-1, dtype=torch.float64)
    count_R1 = (ends_RK < level_R1).sum(-1, keepdim=True) + 1
    threshold_R1 = falling_RK.gather(1, count_R1.clamp(max=falling_RK.shape[1]) - 1)
    return threshold_R1, count_R1 - (falling_RK > threshold_R1).sum(-1, keepdim=True)


def _above(p_RV: Tensor, threshold_R1: Tensor, equals_R1: Tensor) -> Tensor:
    """`p_RV` above the threshold, and the first `equals_R1` entries equal to it; 0 elsewhere."""
    spare = (p_RV == threshold_R1) & ((p_RV == threshold_R1).cumsum(-1) > equals_R1)
    return torch.where((p_RV >= threshold_R1) & ~spare, p_RV, 0.0)


def _invert(p_RV: Tensor, uniform_R: Tensor) -> Tensor:
    """The first id whose cumulative probability exceeds the fraction `uniform_R` of the total."""
    missing = -p_RV.shape[-1] % _BLOCK
    blocks = (F.pad(p_RV, (0, missing)) if missing else p_RV).unflatten(-1, (-1, _BLOCK))
    ends = blocks.sum(-1, dtype=torch.float64).cumsum(-1)
    level = uniform_R.double()[:, None] * ends[:, -1:]
    block = torch.searchsorted(ends, level, right=True).clamp_(max=ends.shape[-1] - 1)
    inside = blocks.take_along_dim(block[..., None], 1)[:, 0].cumsum(-1, dtype=torch.float64)
    rest = level - torch.where(block > 0, ends.gather(1, (block - 1).clamp(min=0)), 0.0)
    # Strictly below the block's total, so that the first entry above it has positive probability.
    total = inside[:, -1:]
    rest = torch.minimum(rest, total.nextafter(torch.zeros_like(total)))
    ids = block * _BLOCK + torch.searchsorted(inside, rest, right=True)
    return ids[:, 0].clamp_(max=p_RV.shape[-1] - 1)


def log_probability(logits: Tensor, ids: Tensor) -> Tensor:
    """log softmax(logits)[id], float32 (...): the model's confidence, before temperature and filters."""
    chosen = logits.gather(-1, ids[..., None])[..., 0]
    return chosen.float() - logits.float().logsumexp(-1)


def most_confident(confidence_BM: Tensor, valid_BM: Tensor, count_B: Tensor) -> Tensor:
    """bool (B, M): the `count_B[b]` most confident valid entries of row b, the first among ties (MaskGIT)."""
    order = confidence_BM.masked_fill(~valid_BM, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    ranks = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(-1, order, ranks)
    return (rank < count_B[:, None]) & valid_BM

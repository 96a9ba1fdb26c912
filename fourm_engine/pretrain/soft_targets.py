"""Soft targets: for each id the ids like it, by the distances of their codes (mc-BEiT, arXiv 2203.15371, section 3.2).

In: tokenizers and perplexities. Out: for each modality, ids and their probabilities. A model of small data then learns
which codes are near, rather than the one id by heart.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor

from fourm_engine.nn.heads import SoftTarget
from fourm_plugins import calls
from fourm_plugins.suggest import did_you_mean
from fourm_plugins.tokenizer import Tokenizer

#: Ids kept per unit of perplexity, the nearest ones; the rest have little probability.
_KEPT = 4
_BLOCK = 1024
_HALVINGS = 50


def check_names(names: Iterable[str], with_tokens: Collection[str]) -> None:
    """Raise ValueError for a modality without tokens."""
    for name in names:
        if name not in with_tokens:
            remedy = did_you_mean(name, with_tokens, otherwise="those that have are")
            raise ValueError(f"loss.soft_targets: {name!r} has no tokens in this run; {remedy}")


def soft_targets(tokenizers: Mapping[str, Tokenizer], perplexities: Mapping[str, float]) -> dict[str, SoftTarget]:
    """Modality -> its soft targets. Raises ValueError for a modality whose tokens have no codes, and PluginError for
    codes that are of no use."""
    check_names(perplexities, tokenizers)
    targets = dict[str, SoftTarget]()
    for name, perplexity in perplexities.items():
        if (vectors := calls.code_vectors(tokenizers[name])) is None:
            raise ValueError(f"loss.soft_targets: tokens of {name!r} have no codes that could be alike; leave it out")
        targets[name] = alike(torch.from_numpy(vectors), perplexity)
    return targets


def alike(codes_VD: Tensor, perplexity: float) -> SoftTarget:
    """ids int64 (V, K), nearest first, and probabilities float32 (V, K) ∝ exp(-distance² / temperature), where each
    row's temperature gives it this perplexity (at most, if K or equal codes do not allow it)."""
    V = len(codes_VD)
    K = min(V, math.ceil(_KEPT * perplexity))
    wanted = math.log(min(perplexity, K))
    ids, shares = [], []
    for start in range(0, V, _BLOCK):
        rows = codes_VD[start : start + _BLOCK]
        squares = torch.cdist(rows, codes_VD, compute_mode="donot_use_mm_for_euclid_dist").square()
        squares[torch.arange(len(rows)), torch.arange(start, start + len(rows))] = -1  # itself first, equal or not
        nearest, at = squares.topk(K, 1, largest=False)
        nearest = nearest.clamp(min=0).double()
        scale = nearest[:, 1:].mean(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        low, high = scale * 1e-6, scale * 1e6
        for _ in range(_HALVINGS):
            temperature = (low * high).sqrt()
            p = torch.softmax(-nearest / temperature, 1)
            wide = torch.special.entr(p).sum(1, keepdim=True) > wanted
            low, high = torch.where(wide, low, temperature), torch.where(wide, temperature, high)
        ids.append(at)
        shares.append(p.float())
    return torch.cat(ids), torch.cat(shares)

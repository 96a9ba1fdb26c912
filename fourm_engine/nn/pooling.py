"""Attentive pooling: reduces the tokens of a sample to one feature, by attention from learned queries.

In: tokens (B, N, D) and a mask of the valid ones (B, N). Out: (B, D). For probes and task heads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fourm_engine.nn.attention import CrossAttention, guard_mask
from fourm_engine.nn.blocks import layer_norm

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

QUERY_STD = 0.02


class AttentivePooling(nn.Module):
    """Multi-head cross-attention from `queries` learned vectors to the norm of the tokens; averaged over the queries
    (attentive probing: CoCa, arXiv 2205.01917, section 3.2; AIM, arXiv 2401.08541, section 3.3).

    `heads` divides `width`. Parameters are drawn from torch's generator."""

    def __init__(self, width: int, heads: int, *, queries: int = 1) -> None:
        super().__init__()
        self.queries = nn.Parameter(QUERY_STD * torch.randn(queries, width))
        self.norm = layer_norm(width, bias=True)
        self.attn = CrossAttention(width, heads, bias=True, qk_norm=False)

    def forward(self, x: Float[Tensor, "B N D"], valid: Bool[Tensor, "B N"]) -> Float[Tensor, "B D"]:
        """A sample without any valid token gets a constant, the bias of the output projection."""
        mask_B11N, seen_B111 = guard_mask(valid[:, None, None, :])
        queries_BQD = self.queries.to(x.dtype).expand(x.shape[0], -1, -1)
        return self.attn(queries_BQD, self.norm(x), mask_B11N, seen_B111).mean(1)

"""Pre-norm transformer blocks: attention, then an MLP, each added to the residual stream (4M, section 2.2).

In and out: activations (B, N, D); masks from `fourm_engine.nn.attention.guard_mask`. Models without biases have norms
without them, too (published files store a zero buffer).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fourm_engine.device import on_host
from fourm_engine.nn.attention import NORM_EPS, Contexts, CrossAttention, SelfAttention
from fourm_engine.nn.linear import Linear

#: Tensor cores need rows of a multiple of this many numbers; otherwise a product takes twice as long (H100, bf16).
ALIGNED = 64
#: Number of rows from which an aligned copy of the weights pays off.
MANY_ROWS = 512


def layer_norm(width: int, *, bias: bool) -> nn.LayerNorm:
    """LayerNorm over the last axis, eps 1e-6; without a bias parameter if `bias` is False."""
    return nn.LayerNorm(width, eps=NORM_EPS, bias=bias)


def hidden_width(mlp: str, ratio: float, width: int) -> int:
    """Hidden width of an MLP, by its name in `MLPS`. SwiGLU has three matrices of two thirds the width: equally many
    weights."""
    return int(ratio * width) if mlp == "gelu" else int(2 / 3 * (ratio * width))


class Mlp(nn.Module):
    """fc2(gelu(fc1 x)), exact GELU, hidden width int(ratio · D)."""

    def __init__(self, width: int, *, ratio: float, bias: bool) -> None:
        super().__init__()
        hidden = hidden_width("gelu", ratio, width)
        self.fc1 = Linear(width, hidden, bias=bias)
        self.fc2 = nn.Linear(hidden, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class SwiGLU(nn.Module):
    """fc2(silu(fc1 x) · fc3 x) (Shazeer 2020), hidden width int(2/3 · ratio · D): as many weights as an `Mlp`."""

    def __init__(self, width: int, *, ratio: float, bias: bool) -> None:
        super().__init__()
        hidden = hidden_width("swiglu", ratio, width)
        self.fc1 = Linear(width, hidden, bias=bias)
        self.fc2 = nn.Linear(hidden, width, bias=bias)
        self.fc3 = Linear(width, hidden, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        missing = -self.fc1.out_features % ALIGNED
        if not missing or on_host(x) or x.numel() < MANY_ROWS * x.shape[-1]:
            return self.fc2(F.silu(self.fc1(x)) * self.fc3(x))
        # L has 2730 hidden units and XL 5461. Additional units with weights of 0 do not change the output.
        gate, value = (_with_units(layer, missing, x) for layer in (self.fc1, self.fc3))
        return F.linear(F.silu(gate) * value, F.pad(self.fc2.weight, (0, missing)), self.fc2.bias)


def _with_units(layer: nn.Linear, more: int, x: Tensor) -> Tensor:
    """The layer's output, followed by `more` zeros."""
    bias = None if layer.bias is None else F.pad(layer.bias, (0, more))
    return F.linear(x, F.pad(layer.weight, (0, 0, 0, more)), bias)


MLPS: dict[str, type[Mlp] | type[SwiGLU]] = {"gelu": Mlp, "swiglu": SwiGLU}


def drop_path(branch: Tensor, rate: float) -> Tensor:
    """Stochastic depth (arXiv 1603.09382): 0 for a fraction `rate` of the samples (first axis), with the others scaled
    up to preserve the mean."""
    kept = torch.rand(len(branch), *[1] * (branch.ndim - 1), device=branch.device) >= rate
    return branch * (kept / (1 - rate)).to(branch.dtype)


class EncoderBlock(nn.Module):
    """x + attn(norm1 x), then x + mlp(norm2 x). In training each branch is dropped for a fraction `drop_path` of the
    samples."""

    drop_path = 0.0

    def __init__(self, width: int, heads: int, *, mlp: str, mlp_ratio: float, bias: bool, qk_norm: bool) -> None:
        super().__init__()
        self.norm1 = layer_norm(width, bias=bias)
        self.attn = SelfAttention(width, heads, bias=bias, qk_norm=qk_norm)
        self.norm2 = layer_norm(width, bias=bias)
        self.mlp = MLPS[mlp](width, ratio=mlp_ratio, bias=bias)

    def forward(self, x_BND: Tensor, mask: Tensor | None, seen: Tensor | None = None) -> Tensor:
        x_BND = x_BND + self._kept(self.attn(self.norm1(x_BND), mask, seen))
        return x_BND + self._kept(self.mlp(self.norm2(x_BND)))

    def _kept(self, branch: Tensor) -> Tensor:
        return drop_path(branch, self.drop_path) if self.training and self.drop_path else branch


@dataclass
class BlockCache:
    """A decoder block's state between steps, for R rows with H heads of width d and a capacity of L tokens; and the
    keys and values, (U, H, N, d), of each group of contexts."""

    self_k_RHLd: Tensor
    self_v_RHLd: Tensor
    cross: list[tuple[Tensor, Tensor]]


class DecoderBlock(nn.Module):
    """x + self_attn(norm1 x), x + cross_attn(query_norm x, context_norm c), x + mlp(norm2 x)."""

    def __init__(self, width: int, heads: int, *, mlp: str, mlp_ratio: float, bias: bool, qk_norm: bool) -> None:
        super().__init__()
        self.norm1 = layer_norm(width, bias=bias)
        self.self_attn = SelfAttention(width, heads, bias=bias, qk_norm=qk_norm)
        self.query_norm = layer_norm(width, bias=bias)
        self.context_norm = layer_norm(width, bias=bias)
        self.cross_attn = CrossAttention(width, heads, bias=bias, qk_norm=qk_norm)
        self.norm2 = layer_norm(width, bias=bias)
        self.mlp = MLPS[mlp](width, ratio=mlp_ratio, bias=bias)

    def forward(
        self,
        x_BMD: Tensor,
        context_BND: Tensor,
        self_mask: Tensor | None,
        cross_mask: Tensor | None,
        cross_seen: Tensor | None,
    ) -> Tensor:
        """`self_mask` has no empty row: a decoder token always sees itself."""
        x_BMD = x_BMD + self.self_attn(self.norm1(x_BMD), self_mask)
        x_BMD = x_BMD + self.cross_attn(self.query_norm(x_BMD), self.context_norm(context_BND), cross_mask, cross_seen)
        return x_BMD + self.mlp(self.norm2(x_BMD))

    def start_cache(self, contexts_UND: Sequence[Tensor], rows: int, max_len: int) -> BlockCache:
        """Allocate `max_len` tokens per row, and compute the keys and values of the contexts."""
        cross = []
        for context in contexts_UND:
            k, v = self.cross_attn.keys_values(self.context_norm(context))
            # Every token reads them, head by head: faster on a CPU if those of a head are contiguous.
            cross.append((k.contiguous(), v.contiguous()))
        _, heads, _, head_width = cross[0][0].shape
        self_k = cross[0][0].new_zeros(rows, heads, max_len, head_width)
        return BlockCache(self_k, self_k.clone(), cross)

    def step(
        self,
        x_R1D: Tensor,
        cache: BlockCache,
        index: int | Tensor,
        contexts: Sequence[Contexts],
        mask: Tensor | None = None,
    ) -> Tensor:
        """`forward` for the token at `index` of causal sequences whose earlier tokens are in `cache`; `index` and
        `mask` as in `SelfAttention.step`."""
        x_R1D = x_R1D + self.self_attn.step(self.norm1(x_R1D), cache.self_k_RHLd, cache.self_v_RHLd, index, mask)
        x_R1D = x_R1D + self.cross_attn.step(self.query_norm(x_R1D), cache.cross, contexts)
        return x_R1D + self.mlp(self.norm2(x_R1D))

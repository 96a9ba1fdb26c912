"""Self- and cross-attention over packed tokens, with boolean masks and static key/value buffers for cached decoding.

In: activations (B, N, D) and a boolean `mask` broadcastable to (B, H, Nq, Nk), True where a query sees a key. Out: (B,
N, D). A query that sees no key gets exactly 0 before the output projection, so the layer returns that projection's
bias: guidance without any visible token relies on it.

Weight layout, as in the published checkpoints: the rows of `qkv` are all queries, all keys, all values, each divided
into heads; the rows of `kv` likewise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from fourm_engine.nn.linear import Linear

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

NORM_EPS = 1e-6  # of every LayerNorm of the model, QK-norm included
#: Devices whose SDPA returns 0, and no gradient, for a query that sees no key, and rebuilds its mask in every layer.
ZERO_ON = ("cpu",)
#: Devices where SDPA may choose cuDNN; its tile size in queries, and in keys; the other kernels.
CUDNN_ON, CUDNN_TILE = ("cuda",), 128
WITHOUT_CUDNN = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def stacked(layer: str) -> int:
    """Number of matrices stacked in the weight of a linear layer, by the layer's name."""
    return {"qkv": 3, "kv": 2}.get(layer.rpartition(".")[2], 1)


def additive(mask: Bool[Tensor, "... Nq Nk"]) -> Tensor | None:
    """The mask for all layers: on a CPU the additive bias of the scores, 0 or -inf, and in inference mode None if every
    query sees every key, which is faster."""
    if mask.device.type not in ZERO_ON:
        return mask
    if torch.is_inference_mode_enabled() and bool(mask.all()):
        return None
    return torch.zeros(mask.shape).masked_fill_(~mask, -torch.inf)


def guard_mask(mask: Bool[Tensor, "... Nq Nk"]) -> tuple[Tensor | None, Bool[Tensor, "... Nq 1"] | None]:
    """A mask (True where the query sees the key) for SDPA, and which rows are not empty, or None where SDPA handles
    these.

    Softmax over an empty row is NaN in some attention kernels, and a NaN in a padded slot spreads (0 · NaN), also into
    gradients. So an empty row sees everything, and `attend` replaces its output by 0."""
    if mask.device.type in ZERO_ON:
        return additive(mask), None
    seen = mask.any(-1, keepdim=True)
    return mask | ~seen, seen


def causal_step_mask(index_1: Int[Tensor, " 1"], keys_BHLd: Tensor) -> Float[Tensor, "1 1 1 L"]:
    """Additive mask with which one token sees only the keys up to `index_1`. Made once for all layers: kernels that
    need a float mask would convert a boolean one in each."""
    later_L = torch.arange(keys_BHLd.shape[2], device=keys_BHLd.device) > index_1
    return torch.zeros_like(later_L, dtype=keys_BHLd.dtype).masked_fill_(later_L, -torch.inf)[None, None, None]


def attend(
    q_BHMd: Tensor, k_BHNd: Tensor, v_BHNd: Tensor, mask: Tensor | None, seen: Tensor | None
) -> Float[Tensor, "B M H*d"]:
    """Scaled dot-product attention with merged heads. `mask` and `seen` come from `guard_mask`; None: all."""
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.to(q_BHMd.dtype)  # some kernels misread a mask of another dtype
    tiled = q_BHMd.shape[2] % CUDNN_TILE == 0 and k_BHNd.shape[2] % CUDNN_TILE == 0
    if tiled or q_BHMd.device.type not in CUDNN_ON:
        out_BHMd = F.scaled_dot_product_attention(q_BHMd, k_BHNd, v_BHNd, attn_mask=mask)
    else:
        # cuDNN, torch's first choice on an H100, is unreliable if a tile is partially filled. Its backward pass can
        # give NaN: with a mask and 64 keys in the last tile (pytorch#196678), or for one query (cudnn-frontend#1072).
        # In generation with 196 keys, equal calls gave unequal captions (benchmarks/README.md).
        with sdpa_kernel(WITHOUT_CUDNN):
            out_BHMd = F.scaled_dot_product_attention(q_BHMd, k_BHNd, v_BHNd, attn_mask=mask)
    if seen is not None:
        out_BHMd = torch.where(seen, out_BHMd, 0.0)
    return out_BHMd.transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Multi-head self-attention; optionally a LayerNorm over each head's dimension of q and k ("QK-norm")."""

    def __init__(self, width: int, heads: int, *, bias: bool, qk_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(width, 3 * width, bias=bias)
        self.proj = Linear(width, width, bias=bias)
        self.q_norm = _head_norm(width // heads, bias=bias, qk_norm=qk_norm)
        self.k_norm = _head_norm(width // heads, bias=bias, qk_norm=qk_norm)

    def _project(self, x_BND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, D) -> q, k, v, each (B, H, N, d)."""
        q, k, v = (_by_head(part, self.heads) for part in self.qkv(x_BND).chunk(3, dim=-1))
        q, k = self.q_norm(q), self.k_norm(k)
        return q.to(v.dtype), k.to(v.dtype), v

    def forward(
        self, x_BND: Float[Tensor, "B N D"], mask: Tensor | None, seen: Tensor | None = None
    ) -> Float[Tensor, "B N D"]:
        """`mask` and `seen` come from `guard_mask`."""
        return self.proj(attend(*self._project(x_BND), mask, seen))

    def step(
        self, x_B1D: Tensor, k_BHLd: Tensor, v_BHLd: Tensor, index: int | Tensor, mask: Tensor | None = None
    ) -> Float[Tensor, "B 1 D"]:
        """Attend from a new token to itself and the `index` tokens before it; writes its key and value into the
        buffers. If the index is on the device, (1,), `mask` hides later positions: see `causal_step_mask`."""
        q, k, v = self._project(x_B1D)
        if isinstance(index, Tensor):
            k_BHLd.index_copy_(2, index, k)
            v_BHLd.index_copy_(2, index, v)
        else:
            k_BHLd[:, :, index : index + 1] = k
            v_BHLd[:, :, index : index + 1] = v
            k_BHLd, v_BHLd = k_BHLd[:, :, : index + 1], v_BHLd[:, :, : index + 1]
        return self.proj(attend(q, k_BHLd, v_BHLd, mask, None))


@dataclass(frozen=True)
class Contexts:
    """U contexts of similar length; each serves `rows` consecutive decoded rows, starting at row `first`."""

    first: int
    count: int  # U
    rows: int
    mask: Tensor | None  # (U, 1, 1, N) and (U, 1, 1, 1), as from `guard_mask`; None where every token is seen
    seen: Tensor | None

    def of(self, x_R1D: Tensor) -> Tensor:
        """(R, 1, …) -> (U, rows, …): the decoded rows of these contexts."""
        return x_R1D[self.first : self.first + self.count * self.rows].unflatten(0, (self.count, self.rows)).squeeze(2)


class CrossAttention(nn.Module):
    """Multi-head attention from decoder tokens to the encoder's context."""

    def __init__(self, width: int, heads: int, *, bias: bool, qk_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.q = Linear(width, width, bias=bias)
        self.kv = nn.Linear(width, 2 * width, bias=bias)
        self.proj = Linear(width, width, bias=bias)
        self.q_norm = _head_norm(width // heads, bias=bias, qk_norm=qk_norm)
        self.k_norm = _head_norm(width // heads, bias=bias, qk_norm=qk_norm)

    def keys_values(self, context_BND: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, D) -> k, v, each (B, H, N, d): independent of the queries, so cached decoding computes them once."""
        k, v = (_by_head(part, self.heads) for part in self.kv(context_BND).chunk(2, dim=-1))
        return self.k_norm(k).to(v.dtype), v

    def step(
        self, x_R1D: Tensor, keys_values: Sequence[tuple[Tensor, Tensor]], contexts: Sequence[Contexts]
    ) -> Float[Tensor, "R 1 D"]:
        """Attend from one token per row to the keys and values of its context, which are read once for all of its
        rows."""
        q_R1Hd = self.q_norm(self.q(x_R1D).unflatten(-1, (self.heads, -1)))
        parts = [
            attend(group.of(q_R1Hd).transpose(1, 2).to(v.dtype), k, v, group.mask, group.seen).flatten(0, 1)
            for group, (k, v) in zip(contexts, keys_values, strict=True)
        ]
        return self.proj((parts[0] if len(parts) == 1 else torch.cat(parts))[:, None])

    def forward(
        self,
        x_BMD: Float[Tensor, "B M D"],
        context_BND: Float[Tensor, "B N D"],
        mask: Tensor | None,
        seen: Tensor | None,
    ) -> Float[Tensor, "B M D"]:
        k_BHNd, v_BHNd = self.keys_values(context_BND)
        q_BHMd = self.q_norm(_by_head(self.q(x_BMD), self.heads))
        return self.proj(attend(q_BHMd.to(v_BHNd.dtype), k_BHNd, v_BHNd, mask, seen))


def _by_head(x_BND: Tensor, heads: int) -> Tensor:
    """(B, N, H·d) -> (B, H, N, d), a view. This way the gradients of the chunks of a product are joined with one
    copy."""
    return x_BND.unflatten(-1, (heads, -1)).transpose(1, 2)


def _head_norm(head_width: int, *, bias: bool, qk_norm: bool) -> nn.Module:
    return nn.LayerNorm(head_width, eps=NORM_EPS, bias=bias) if qk_norm else nn.Identity()

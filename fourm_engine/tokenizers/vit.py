"""The ViT codec of the tokenizers (4M, appendix B): pictures to a grid of latents, and back.

In and out: channels-first maps (B, C, H, W) and latents (B, N, D), N = h · w tokens in row-major order. With
`blocks=0` the encoder sees each patch alone: a patch-wise MLP, which learns fastest on little data.
"""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from fourm_engine.nn.blocks import EncoderBlock, layer_norm
from fourm_engine.nn.embeddings import sine_cosine_2d
from fourm_plugins.modality import Settings

#: Numbers in the table of positions, which is computed and in no file.
MAX_POSITIONS = 1 << 28


class CodecSettings(Settings):
    """Size of an encoder or decoder. `post_mlp`: a last tanh MLP, added to the residual stream."""

    width: int = Field(default=128, ge=4, le=8192)
    blocks: int = Field(default=2, ge=0, le=256)
    heads: int = Field(default=4, ge=1)
    mlp_ratio: float = Field(default=4.0, gt=0, le=64)
    post_mlp: bool = True
    #: Positions of a grid of this size, resized to the grid at hand; null: of the grid itself.
    position_grid: tuple[int, int] | None = None

    @model_serializer(mode="wrap")
    def _without_default(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        data = serialise(self)
        if data.get("position_grid") is None:  # so that fingerprints from before it was added stay
            data.pop("position_grid", None)
        return data

    @model_validator(mode="after")
    def _check_width(self) -> CodecSettings:
        if self.width % 4 or self.width % self.heads:
            raise ValueError(f"width {self.width} must be a multiple of 4 (of its positions) and of heads {self.heads}")
        return self


class PostMlp(nn.Module):
    """fc2(tanh(fc1 x))."""

    def __init__(self, width: int, *, ratio: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, int(ratio * width))
        self.fc2 = nn.Linear(int(ratio * width), width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(torch.tanh(self.fc1(x)))


class _Trunk(nn.Module):
    """Positions, blocks, optional last MLP; biases everywhere, no final norm."""

    pos_emb: Tensor

    def __init__(self, grid: tuple[int, int], settings: CodecSettings) -> None:
        super().__init__()
        width, heads, ratio = settings.width, settings.heads, settings.mlp_ratio
        rows, columns = settings.position_grid or grid
        if rows * columns * width > MAX_POSITIONS:
            raise ValueError(f"{rows}x{columns} positions of width {width} are beyond what is loaded")
        positions = sine_cosine_2d(rows, columns, width)
        if settings.position_grid is not None and settings.position_grid != grid:
            stored = rearrange(positions, "(h w) d -> 1 d h w", h=settings.position_grid[0])
            resized = F.interpolate(stored, size=grid, mode="bicubic", align_corners=False)
            positions = rearrange(resized, "1 d h w -> (h w) d")
        self.register_buffer("pos_emb", positions, persistent=False)  # (N, D)
        self.blocks = nn.ModuleList(
            EncoderBlock(width, heads, mlp="gelu", mlp_ratio=ratio, bias=True, qk_norm=False)
            for _ in range(settings.blocks)
        )
        self.norm_mlp = layer_norm(width, bias=True) if settings.post_mlp else None
        self.post_mlp = PostMlp(width, ratio=ratio) if settings.post_mlp else None

    def trunk(self, x_BND: Tensor) -> Tensor:
        x_BND = x_BND + self.pos_emb
        for block in self.blocks:
            x_BND = block(x_BND, None)
        if self.norm_mlp is not None and self.post_mlp is not None:
            x_BND = x_BND + self.post_mlp(self.norm_mlp(x_BND))
        return x_BND


class ViTEncoder(_Trunk):
    """(B, C, h·p, w·q) -> (B, h·w, D), for patches of p x q pixels."""

    def __init__(self, channels: int, patch: tuple[int, int], grid: tuple[int, int], settings: CodecSettings) -> None:
        super().__init__(grid, settings)
        self.patch = patch
        # The published patch convolution as a product: its weight (D, C, p, q), flattened.
        self.proj = nn.Linear(channels * patch[0] * patch[1], settings.width)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        p, q = self.patch
        return self.trunk(self.proj(rearrange(x_BCHW, "b c (h p) (w q) -> b (h w) (c p q)", p=p, q=q)))


class ViTDecoder(_Trunk):
    """(B, h·w, D) -> (B, C, h·p, w·q)."""

    def __init__(self, channels: int, patch: tuple[int, int], grid: tuple[int, int], settings: CodecSettings) -> None:
        super().__init__(grid, settings)
        self.patch, self.grid = patch, grid
        self.out_proj = nn.Linear(settings.width, channels * patch[0] * patch[1])

    def forward(self, x_BND: Tensor) -> Tensor:
        (p, q), (h, w) = self.patch, self.grid
        patches = self.out_proj(self.trunk(x_BND))
        return rearrange(patches, "b (h w) (c p q) -> b c (h p) (w q)", h=h, w=w, p=p, q=q)

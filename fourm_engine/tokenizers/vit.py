"""The ViT codec of the tokenizers (4M, appendix B): pictures to a grid of latents, and back.

In and out: channels-first maps (B, C, H, W) and latents (B, N, D), N = h · w tokens in row-major order. With
`blocks=0` the encoder sees each patch alone: a patch-wise MLP, which learns fastest on little data.

Codecs accept grids of any size: the positions of `position_grid` are resized to the grid at hand.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal, TypeVar

import torch
from einops import rearrange
from pydantic import BaseModel, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from fourm_engine.nn.blocks import EncoderBlock, layer_norm
from fourm_engine.nn.config import filled_size
from fourm_engine.nn.embeddings import sine_cosine_2d
from fourm_plugins.settings import Settings

#: Largest table of positions, in numbers; it is computed, not stored.
MAX_POSITIONS = 1 << 28
#: Sizes of the paper (4M, appendix B).
SIZES: dict[str, dict[str, int]] = {
    "S": {"width": 512, "blocks": 8, "heads": 8},
    "B": {"width": 768, "blocks": 12, "heads": 12},
    "L": {"width": 1024, "blocks": 24, "heads": 16},
}
TAIL_CHANNELS = 32


class CodecSettings(Settings):
    """Size of an encoder or decoder. `post_mlp`: a last tanh MLP, added to the residual stream."""

    #: A size of the paper in place of width, blocks and heads; stored as these.
    size: Literal["S", "B", "L"] | None = Field(default=None, exclude=True)
    width: int = Field(default=128, ge=4, le=8192)
    blocks: int = Field(default=2, ge=0, le=256)
    heads: int = Field(default=4, ge=1)
    mlp_ratio: float = Field(default=4.0, gt=0, le=64)
    post_mlp: bool = True
    #: Size of the grid whose positions are resized to the grid at hand; null: positions of the grid itself.
    position_grid: tuple[int, int] | None = None

    @model_validator(mode="before")
    @classmethod
    def _fill_size(cls, data: Any) -> Any:
        return filled_size(data, SIZES)

    @model_validator(mode="after")
    def _check_width(self) -> CodecSettings:
        if self.width % 4 or self.width % self.heads:
            raise ValueError(f"width {self.width} must be a multiple of 4 (of its positions) and of heads {self.heads}")
        return self


class DecoderSettings(CodecSettings):
    """Size of a decoder."""

    #: Residual blocks of 3x3 convolutions over the final map, through which pixels on both sides of a seam between
    #: patches see one another; 0: none.
    conv_tail: int = Field(default=0, ge=0, le=16)


AnySettings = TypeVar("AnySettings", bound=BaseModel)


def with_position_grid(settings: AnySettings, grid: tuple[int, int]) -> AnySettings:
    """The settings of a tokenizer, with `grid` as the position grid of every codec that has none."""
    codecs = {
        name: value.model_copy(update={"position_grid": value.position_grid or grid})
        for name, value in settings
        if isinstance(value, CodecSettings)
    }
    return settings.model_copy(update=codecs)


def position_grid(settings: BaseModel) -> tuple[int, int] | None:
    """The position grid of the first codec in a tokenizer's settings; None if positions follow the grid of the
    tokenizer."""
    return next((value.position_grid for _, value in settings if isinstance(value, CodecSettings)), None)


@lru_cache(maxsize=64)
@torch.inference_mode(mode=False)
def resized_positions(stored: tuple[int, int], grid: tuple[int, int], width: int) -> Tensor:
    """(h · w, width) on the CPU: the sine-cosine positions of the grid `stored`, resized to `grid` bicubically."""
    positions = sine_cosine_2d(*stored, width)
    if stored == grid:
        return positions
    planes = rearrange(positions, "(h w) d -> 1 d h w", h=stored[0])
    resized = F.interpolate(planes, size=grid, mode="bicubic", align_corners=False)
    return rearrange(resized, "1 d h w -> (h w) d").contiguous()


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
        self.grid, self.width, self.position_grid = grid, width, settings.position_grid or grid
        for rows, columns in (grid, self.position_grid):
            if rows * columns * width > MAX_POSITIONS:
                raise ValueError(f"{rows}x{columns} positions of width {width} are beyond what is loaded")
        positions = resized_positions(self.position_grid, grid, width).clone()
        self.register_buffer("pos_emb", positions, persistent=False)  # (N, D), of the codec's own grid
        self.blocks = nn.ModuleList(
            EncoderBlock(width, heads, mlp="gelu", mlp_ratio=ratio, bias=True, qk_norm=False)
            for _ in range(settings.blocks)
        )
        self.norm_mlp = layer_norm(width, bias=True) if settings.post_mlp else None
        self.post_mlp = PostMlp(width, ratio=ratio) if settings.post_mlp else None

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """(h · w, D) for a grid of h x w tokens."""
        if grid == self.grid:
            return self.pos_emb
        return resized_positions(self.position_grid, grid, self.width).to(self.pos_emb.device)

    def trunk(self, x_BND: Tensor, grid: tuple[int, int]) -> Tensor:
        x_BND = x_BND + self.positions(grid)
        for block in self.blocks:
            x_BND = block(x_BND, None)
        if self.norm_mlp is not None and self.post_mlp is not None:
            x_BND = x_BND + self.post_mlp(self.norm_mlp(x_BND))
        return x_BND


class ViTEncoder(_Trunk):
    """(B, C, h·p, w·q) -> (B, h·w, D), for patches of p x q pixels and any h and w."""

    def __init__(self, channels: int, patch: tuple[int, int], grid: tuple[int, int], settings: CodecSettings) -> None:
        super().__init__(grid, settings)
        self.patch = patch
        # The published patch convolution as a product: its weight (D, C, p, q), flattened.
        self.proj = nn.Linear(channels * patch[0] * patch[1], settings.width)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        p, q = self.patch
        grid = x_BCHW.shape[-2] // p, x_BCHW.shape[-1] // q
        return self.embed(rearrange(x_BCHW, "b c (h p) (w q) -> b (h w) (c p q)", p=p, q=q), grid)

    def embed(self, patches_BNP: Tensor, grid: tuple[int, int]) -> Tensor:
        """Patches (B, h·w, C·p·q), channel by channel -> (B, h·w, D)."""
        return self.trunk(self.proj(patches_BNP), grid)


class ConvTail(nn.Module):
    """x + out(blocks(in x)) over maps (B, C, H, W), blocks h + conv(gelu(conv(gelu h))); `out` starts at zero."""

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__()
        self.proj_in = nn.Conv2d(channels, TAIL_CHANNELS, 3, padding=1)
        self.convs = nn.ModuleList(nn.Conv2d(TAIL_CHANNELS, TAIL_CHANNELS, 3, padding=1) for _ in range(2 * blocks))
        self.proj_out = nn.Conv2d(TAIL_CHANNELS, channels, 1)
        nn.init.zeros_(self.proj_out.weight)
        assert self.proj_out.bias is not None
        nn.init.zeros_(self.proj_out.bias)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        hidden = self.proj_in(x_BCHW)
        for first, second in zip(self.convs[0::2], self.convs[1::2], strict=True):
            hidden = hidden + second(F.gelu(first(F.gelu(hidden))))
        return x_BCHW + self.proj_out(F.gelu(hidden))


class ViTDecoder(_Trunk):
    """(B, h·w, D) -> (B, C, h·p, w·q), on a grid of any size."""

    def __init__(self, channels: int, patch: tuple[int, int], grid: tuple[int, int], settings: CodecSettings) -> None:
        super().__init__(grid, settings)
        self.patch = patch
        self.out_proj = nn.Linear(settings.width, channels * patch[0] * patch[1])
        tail = settings.conv_tail if isinstance(settings, DecoderSettings) else 0
        self.tail = ConvTail(channels, tail) if tail else None

    def forward(self, x_BND: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """`grid`: (h, w) if it is not the codec's own."""
        (p, q), (h, w) = self.patch, grid or self.grid
        patches = self.out_proj(self.trunk(x_BND, (h, w)))
        maps = rearrange(patches, "b (h w) (c p q) -> b c (h p) (w q)", h=h, w=w, p=p, q=q)
        return maps if self.tail is None else self.tail(maps)

"""The class-unconditional UNet of guided diffusion on patches (Dhariwal & Nichol 2021, section 3; 4M, appendix B).

Takes noisy maps (B, C, H, W), timesteps (B,), and a condition (B, d, h, w), a grid of quantised latents that is resized
to the grid of patches and concatenated to them; returns the diffusion's prediction (B, C, H, W). Parameters are named
as in the published checkpoints.
"""

from __future__ import annotations

import torch
from einops import rearrange
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from fourm_plugins.settings import Settings

NORM_EPS = 1e-5


class UNetSettings(Settings):
    """Size of a UNet. Published: width 256, multipliers 1, 2, 2, 2, blocks 3, attention at 4 and 8, groups 32."""

    #: Side in pixels of the patches that the first convolution sees.
    patch: int = Field(default=4, ge=1, le=64)
    #: Channels of the first level, and the width of the timestep's sines and cosines.
    width: int = Field(default=64, ge=2, le=4096)
    #: Channels of each level divided by `width`; every further level halves the resolution.
    multipliers: tuple[int, ...] = Field(default=(1, 2), min_length=1, max_length=8)
    #: Residual blocks of a level.
    blocks: int = Field(default=1, ge=1, le=16)
    #: Downsamplings (1, 2, 4, …) at which every block is followed by attention; the innermost level always has one.
    attention: tuple[int, ...] = (2,)
    #: Groups of the group norms.
    groups: int = Field(default=16, ge=1)

    @model_validator(mode="after")
    def _divides(self) -> UNetSettings:
        if self.width % 2 or any(m < 1 or m > 64 for m in self.multipliers):
            raise ValueError(f"width {self.width} must be even, and multipliers {self.multipliers} in 1 to 64")
        if self.width % self.groups:
            raise ValueError(f"width {self.width} is not a multiple of the {self.groups} groups; change one of them")
        return self

    @property
    def downsampling(self) -> int:
        """Side in pixels of the area of one position at the innermost level."""
        return int(self.patch * 2 ** (len(self.multipliers) - 1))


class _Residual(nn.Module):
    """x + conv(silu(norm(conv(silu(norm x)) + linear(silu(timestep)))))."""

    def __init__(self, channels_in: int, channels: int, *, time: int, groups: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(
            nn.GroupNorm(groups, channels_in, eps=NORM_EPS), nn.SiLU(), nn.Conv2d(channels_in, channels, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(time, channels))
        last = nn.Conv2d(channels, channels, 3, padding=1)
        # An identity in place of the published network's dropout, so that the names of later layers match.
        self.out_layers = nn.Sequential(nn.GroupNorm(groups, channels, eps=NORM_EPS), nn.SiLU(), nn.Identity(), last)
        _zero(last)  # a block starts as the identity
        self.skip_connection = nn.Identity() if channels_in == channels else nn.Conv2d(channels_in, channels, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.in_layers(x) + self.emb_layers(time)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(h)


class _Attention(nn.Module):
    """Self-attention with one head over the positions of a map, added to it."""

    def __init__(self, channels: int, *, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=NORM_EPS)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)
        _zero(self.proj_out)

    def forward(self, x_BCHW: Tensor, time: Tensor) -> Tensor:
        flat = x_BCHW.flatten(2)
        q, k, v = self.qkv(self.norm(flat)).transpose(1, 2).unsqueeze(1).chunk(3, dim=-1)  # (B, 1, N, C) each
        mixed = F.scaled_dot_product_attention(q, k, v).squeeze(1).transpose(1, 2)
        return x_BCHW + self.proj_out(mixed).reshape(x_BCHW.shape)


class _Convolution(nn.Conv2d):
    """The first convolution, which ignores the timestep."""

    def forward(self, x: Tensor, time: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x)


class _Down(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.op(x)


class _Up(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class _Stage(nn.Sequential):
    """Modules of (map, timestep) in sequence."""

    def forward(self, x: Tensor, time: Tensor) -> Tensor:  # type: ignore[override]
        for module in self:
            x = module(x, time)
        return x


class PatchedUNet(nn.Module):
    """Maps of `channels`, latents of `condition` channels. Sides of maps are multiples of `settings.downsampling`."""

    def __init__(self, channels: int, condition: int, settings: UNetSettings) -> None:
        super().__init__()
        width, groups, time = settings.width, settings.groups, 4 * settings.width
        self.patch, self.width = settings.patch, width
        numbers = channels * settings.patch**2  # a patch
        self.time_embed = nn.Sequential(nn.Linear(width, time), nn.SiLU(), nn.Linear(time, time))

        def block(channels_in: int, channels_out: int, level: int) -> list[nn.Module]:
            made: list[nn.Module] = [_Residual(channels_in, channels_out, time=time, groups=groups)]
            return made + [_Attention(channels_out, groups=groups)] * (2**level in settings.attention)

        now = settings.multipliers[0] * width
        stages, kept = [_Stage(_Convolution(numbers + condition, now, 3, padding=1))], [now]
        for level, multiplier in enumerate(settings.multipliers):
            for _ in range(settings.blocks):
                stages.append(_Stage(*block(now, multiplier * width, level)))
                now = multiplier * width
                kept.append(now)
            if level < len(settings.multipliers) - 1:
                stages.append(_Stage(_Down(now)))
                kept.append(now)
        self.input_blocks = nn.ModuleList(stages)
        first, last = (_Residual(now, now, time=time, groups=groups) for _ in range(2))
        self.middle_block = _Stage(first, _Attention(now, groups=groups), last)
        stages = []
        for level, multiplier in reversed(list(enumerate(settings.multipliers))):
            for number in range(settings.blocks + 1):
                modules = block(now + kept.pop(), multiplier * width, level)
                now = multiplier * width
                stages.append(_Stage(*modules, *[_Up(now)] * (level > 0 and number == settings.blocks)))
        self.output_blocks = nn.ModuleList(stages)
        self.out = nn.Sequential(
            nn.GroupNorm(groups, now, eps=NORM_EPS), nn.SiLU(), nn.Conv2d(now, numbers, 3, padding=1)
        )
        _zero(self.out[2])

    def forward(self, x_BCHW: Tensor, t_B: Tensor, condition_Bdhw: Tensor) -> Tensor:
        """`t_B`: timesteps, 0 the least noisy."""
        p = self.patch
        h = rearrange(x_BCHW, "b c (h p) (w q) -> b (c p q) h w", p=p, q=p)
        h = torch.cat([h, F.interpolate(condition_Bdhw, size=h.shape[-2:], mode="nearest")], dim=1)
        time = self.time_embed(timestep_embedding(t_B, self.width))
        kept = []
        for stage in self.input_blocks:
            h = stage(h, time)
            kept.append(h)
        h = self.middle_block(h, time)
        for stage in self.output_blocks:
            h = stage(torch.cat([h, kept.pop()], dim=1), time)
        return rearrange(self.out(h), "b (c p q) h w -> b c (h p) (w q)", p=p, q=p)


def timestep_embedding(t_B: Tensor, width: int) -> Tensor:
    """(B, width): cosines, then sines, of t · 10000^(-i / (width/2))."""
    half = width // 2
    frequency = 10000.0 ** (-torch.arange(half, dtype=torch.float32, device=t_B.device) / half)
    angle = t_B.float()[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


def _zero(module: nn.Module) -> None:
    for parameter in module.parameters():
        nn.init.zeros_(parameter)

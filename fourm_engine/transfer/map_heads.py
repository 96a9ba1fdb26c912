"""Heads that predict maps from the features of a sample's grids.

In: (B, D, h, w) of every input that is a grid, stacked on the channels. Out: (B, outputs, H, W).
"""

from __future__ import annotations

from collections.abc import Callable
from math import log2

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fourm_plugins.head import HeadFeatures, HeadSpec

LAYER_SCALE = 1e-6
#: Sides of the grids onto which the coarsest level is pooled (PSPNet, arXiv 1612.01105).
POOLED = (1, 2, 3, 6)
#: Maximum value of a head's options; a larger one is a typo, and would exhaust the memory.
MAX_SIZE = 65_536


def _check_sizes(least: int, **sizes: object) -> None:
    for name, number in sizes.items():
        if type(number) is not int or not least <= number <= MAX_SIZE:
            raise ValueError(f"{name} is {number!r:.40}; it must be a whole number from {least} to {MAX_SIZE:,}")


def _resized(x: Tensor, size: tuple[int, ...]) -> Tensor:
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of (B, C, h, w)."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return super().forward(x_BCHW.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class GridHead(nn.Module):
    """A head on the features of all inputs that are grids."""

    def __init__(self, spec: HeadSpec, name: str) -> None:
        super().__init__()
        if not spec.grids:
            raise ValueError(f"{name} needs an input that is a grid, and there is none; add one to modalities.select")
        self.names = tuple(spec.grids)
        self.grid = next(iter(spec.grids.values()))
        self.channels = spec.width * len(self.names)

    def stacked(self, features: HeadFeatures) -> Tensor:
        """(B, inputs · D, h, w), all on the grid of the first input."""
        maps = (features.maps[name] for name in self.names)
        return torch.cat([x if x.shape[2:] == self.grid else _resized(x, self.grid) for x in maps], dim=1)


class _MapHead(GridHead):
    def __init__(self, spec: HeadSpec, name: str) -> None:
        if spec.size is None:
            wanted = "boxes; use fcos" if spec.levels else "one vector a sample; use linear or attentive"
            raise ValueError(f"{name} makes maps, and the task wants {wanted}")
        super().__init__(spec, name)
        self.size = spec.size


class ConvNeXtBlock(nn.Module):
    """x + scale · MLP(norm(depthwise 7x7 x)) (ConvNeXt, arXiv 2201.03545)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.scale = nn.Parameter(LAYER_SCALE * torch.ones(width))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BHWC = self.norm(self.depthwise(x_BCHW).permute(0, 2, 3, 1))
        return x_BCHW + (self.scale * self.fc2(F.gelu(self.fc1(y_BHWC)))).permute(0, 3, 1, 2)


def _conv(channels: int, width: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, width, kernel, padding=kernel // 2), ChannelNorm(width), nn.GELU())


class ConvNeXt(_MapHead):
    """The head of MultiMAE (arXiv 2204.01678) and 4M: each token becomes `upsample` x `upsample` cells of `width`
    channels, followed by `blocks` ConvNeXt blocks, a linear layer, and bilinear interpolation to the size of the map.

    `detail`: channels of convolutions on the input pixels, at the size of the map, joined with the cells before the
    output to resolve edges within a token's patch. 0: none."""

    def __init__(
        self, spec: HeadSpec, *, width: int = 384, upsample: int = 4, blocks: int = 4, detail: int = 0
    ) -> None:
        super().__init__(spec, "convnext")
        _check_sizes(1, width=width, upsample=upsample)
        _check_sizes(0, blocks=blocks, detail=detail)
        self.project = nn.Conv2d(self.channels, width * upsample**2, 1)
        self.shuffle = nn.PixelShuffle(upsample)
        self.blocks = nn.Sequential(*(ConvNeXtBlock(width) for _ in range(blocks)))
        self.pixels = tuple(spec.pixels) if detail else ()
        if detail and not self.pixels:
            raise ValueError("detail is for inputs of pixels, and all inputs are tokens; leave it out")
        if detail:
            self.cells = nn.Conv2d(width, detail, 1)
            self.stem = _conv(sum(spec.pixels[name][0] for name in self.pixels), detail, 5)
            self.join = _conv(2 * detail, detail, 3)
        self.output = nn.Conv2d(detail or width, spec.outputs, 1)

    def forward(self, features: HeadFeatures) -> Tensor:
        x = self.blocks(self.shuffle(self.project(self.stacked(features))))
        if not self.pixels:
            return _resized(self.output(x), self.size)
        seen = torch.cat([_resized(features.pixels[name], self.size) for name in self.pixels], dim=1)
        return self.output(self.join(torch.cat([_resized(self.cells(x), self.size), self.stem(seen)], dim=1)))


class Pyramid(_MapHead):
    """A pyramid of 4, 2, 1 and ½ times the token grid, made from the last features only (ViTDet, arXiv 2203.16527),
    with pooled context at the coarsest level, a top-down path of sums, and all levels fused at the finest (UPerNet,
    arXiv 1807.10221). All levels have `width` channels."""

    def __init__(self, spec: HeadSpec, *, width: int = 256) -> None:
        super().__init__(spec, "pyramid")
        _check_sizes(1, width=width)
        channels = self.channels
        self.levels = nn.ModuleList(
            [
                nn.Sequential(
                    nn.ConvTranspose2d(channels, width, 2, 2),
                    ChannelNorm(width),
                    nn.GELU(),
                    nn.ConvTranspose2d(width, width, 2, 2),
                ),
                nn.ConvTranspose2d(channels, width, 2, 2),
                nn.Conv2d(channels, width, 1),
                nn.Sequential(nn.MaxPool2d(2, ceil_mode=True), nn.Conv2d(channels, width, 1)),
            ]
        )
        self.norms = nn.ModuleList(ChannelNorm(width) for _ in self.levels)
        self.pooled = nn.ModuleList(nn.Sequential(nn.AdaptiveAvgPool2d(n), nn.Conv2d(width, width, 1)) for n in POOLED)
        self.context = _conv(width * (1 + len(POOLED)), width, 3)
        self.smooth = nn.ModuleList(_conv(width, width, 3) for _ in self.levels[:-1])
        self.fuse = _conv(width * len(self.levels), width, 3)
        self.output = nn.Conv2d(width, spec.outputs, 1)

    def forward(self, features: HeadFeatures) -> Tensor:
        x = self.stacked(features)
        levels = [norm(level(x)) for level, norm in zip(self.levels, self.norms, strict=True)]
        top = levels[-1]
        context = [_resized(pooled(top), top.shape[2:]) for pooled in self.pooled]
        levels[-1] = self.context(torch.cat([top, *context], dim=1))
        for i in range(len(levels) - 2, -1, -1):
            levels[i] = levels[i] + _resized(levels[i + 1], levels[i].shape[2:])
        smooth = [conv(level) for conv, level in zip(self.smooth, levels, strict=False)] + levels[-1:]
        fused = self.fuse(torch.cat([_resized(level, levels[0].shape[2:]) for level in smooth], dim=1))
        return _resized(self.output(fused), self.size)


class UNet(_MapHead):
    """A U-Net on the input pixels (arXiv 1505.04597), with two convolutions per level in each direction. The encoder's
    features are added at the level of the token grid, or at the coarsest, through a zero-initialised projection, so
    the head starts as a plain U-Net and learns to use the encoder.

    `width`: channels at the size of the map, doubled at each halving; `levels`: number of resolutions. `norm`: "batch",
    or for batches of a few samples "group" (groups of 8 channels if 8 divides their number, else one group)."""

    def __init__(self, spec: HeadSpec, *, width: int = 32, levels: int = 4, norm: str = "batch") -> None:
        super().__init__(spec, "unet")
        _check_sizes(1, width=width, levels=levels)
        if norm not in NORMS:
            raise ValueError(f"norm is {norm!r:.40}; it must be {' or '.join(NORMS)}")
        if not spec.pixels:
            raise ValueError("unet is for inputs of pixels, and all inputs are tokens; use convnext or pyramid")
        self.pixels = tuple(spec.pixels)
        widths = [width << level for level in range(levels)]
        below = [sum(spec.pixels[name][0] for name in self.pixels), *widths[:-1]]
        self.down = nn.ModuleList(_twice(a, b, norm) for a, b in zip(below, widths, strict=True))
        self.up = nn.ModuleList(_twice(3 * w, w, norm) for w in reversed(widths[:-1]))
        coarser = round(log2(max(side / n for side, n in zip(self.size, self.grid, strict=True))))
        self.level = min(max(0, coarser), levels - 1)
        self.project = nn.Conv2d(self.channels, widths[self.level], 1, bias=False)
        nn.init.zeros_(self.project.weight)
        self.output = nn.Conv2d(width, spec.outputs, 1)

    def forward(self, features: HeadFeatures) -> Tensor:
        x, seen = torch.cat([_resized(features.pixels[name], self.size) for name in self.pixels], dim=1), []
        for level, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2, ceil_mode=True) if level else x)
            if level == self.level:
                x = x + _resized(self.project(self.stacked(features)), x.shape[2:])
            seen.append(x)
        for block, finer in zip(self.up, reversed(seen[:-1]), strict=True):
            x = block(torch.cat([_resized(x, finer.shape[2:]), finer], dim=1))
        return self.output(x)


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "group": lambda width: nn.GroupNorm(width // 8 if width % 8 == 0 else 1, width),
}


def _twice(channels: int, width: int, norm: str) -> nn.Sequential:
    """Two convolutions, each with a norm and a ReLU."""
    layers = ((nn.Conv2d(c, width, 3, padding=1, bias=False), NORMS[norm](width), nn.ReLU()) for c in (channels, width))
    return nn.Sequential(*(layer for three in layers for layer in three))

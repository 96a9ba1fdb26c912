"""Heads that detect objects, from the features of the inputs' grids.

In: (B, D, h, w) of every input that is a grid. Out: (B, cells, outputs + 5), with the cells of `HeadSpec.levels`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fourm_engine.transfer.map_heads import ChannelNorm, GridHead
from fourm_engine.transfer.vision import torchvision
from fourm_plugins.head import HeadFeatures, HeadSpec

_GROUPS = 32  # of torchvision's normalisation


class FCOS(GridHead):
    """torchvision's FCOS head (arXiv 1904.01355), with `convolutions` before each output, on a pyramid of `width`
    channels made from the last features only (ViTDet, arXiv 2203.16527)."""

    def __init__(self, spec: HeadSpec, *, width: int = 256, convolutions: int = 4) -> None:
        super().__init__(spec, "fcos")
        if not spec.levels:
            raise ValueError("fcos finds boxes, and the task wants none; take another head, or task.kind: detection")
        if width % _GROUPS:
            raise ValueError(f"width={width} is no multiple of {_GROUPS}")
        fcos = torchvision("models.detection.fcos", what="detection needs")
        self.levels = nn.ModuleList(self._level(level, width) for level in spec.levels)
        self.detector = fcos.FCOSHead(width, 1, spec.outputs, convolutions)

    def _level(self, level: tuple[int, int], width: int) -> nn.Sequential:
        """Layers from the token grid to a finer or coarser one."""
        layers, channels, height = list[nn.Module](), self.channels, self.grid[0]
        while height < level[0]:
            layers += [nn.ConvTranspose2d(channels, width, 2, 2), ChannelNorm(width), nn.GELU()]
            channels, height = width, 2 * height
        while height > level[0]:
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
            height = -(-height // 2)
        layers += [nn.Conv2d(channels, width, 1), ChannelNorm(width)]
        return nn.Sequential(*layers, nn.Conv2d(width, width, 3, padding=1), ChannelNorm(width))

    def forward(self, features: HeadFeatures) -> Tensor:
        x = self.stacked(features)
        outputs = self.detector([level(x) for level in self.levels])
        return torch.cat([outputs["cls_logits"], outputs["bbox_regression"], outputs["bbox_ctrness"]], -1)

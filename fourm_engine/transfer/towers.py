"""Towers: a head for each side of a retrieval task, on one encoder.

In: features of rows that each show the inputs of one side. Out: embeddings (B, width) of length 1; in training mode,
longer ones, whose products are cosines over the temperature.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fourm_plugins.head import HeadFeatures

#: The least temperature (CLIP, arXiv 2103.00020, section 2.5): below it training becomes unstable.
COLDEST = 0.01


class Towers(nn.Module):
    """`sides`: the indices of each side's modalities in the vocabulary of the inputs."""

    def __init__(self, heads: Sequence[nn.Module], sides: Sequence[Sequence[int]], temperature: float) -> None:
        super().__init__()
        self.heads, self.sides = nn.ModuleList(heads), [list(side) for side in sides]
        #: Logarithm of 1 / temperature; a vector, which FSDP can shard.
        self.log_scale = nn.Parameter(torch.tensor([-math.log(temperature)]))

    def forward(self, features: HeadFeatures, mod_BN: Tensor) -> Tensor:
        """`mod_BN`: each token's modality, -1 for padding. 0 for rows without tokens."""
        shown = mod_BN.amax(1)  # the modalities of a row are all of one side
        total = torch.zeros((), device=mod_BN.device)
        for head, side in zip(self.heads, self.sides, strict=True):
            of_side = torch.stack([shown == index for index in side]).any(0)
            total = total + torch.where(of_side[:, None], head(features).float(), 0.0)
        embeddings = F.normalize(total, dim=1)
        if not self.training:
            return embeddings
        learned = self.log_scale.float()
        # Bounded in value alone: a gradient brings it back.
        scale = (learned + (learned.clamp(max=-math.log(COLDEST)) - learned).detach()).exp()
        return embeddings * scale.sqrt()

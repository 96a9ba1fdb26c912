"""What a head of a task is told, and what it is shown: an encoder's features of a batch.

A package adds one as an entry point of group `fourm.heads.v1`: a function, or a class of `torch.nn.Module`, that is
called `make(spec, **options)`. Its `forward(features)` gives (B, outputs), a map (B, outputs, H, W) of `spec.size`, or
(B, cells, outputs + 5), an object of each cell of `spec.levels`. Losses, metrics and data are the task's; a head is
the network between.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor


@dataclass(frozen=True)
class HeadSpec:
    """The shape of what a head takes and gives."""

    #: D of the features.
    width: int
    #: Numbers a sample, or a pixel: classes, channels.
    outputs: int
    #: (h, w) of each input that is a grid, by its name.
    grids: Mapping[str, tuple[int, int]]
    #: (H, W) of the map that is wanted; None: one vector a sample.
    size: tuple[int, int] | None = None
    #: (h, w) of the grids of a detector, the finest first. Of each cell, level by level and row by row, are wanted: a
    #: logit a class; how far the box reaches to the left, top, right and bottom of the cell's middle, in sides of the
    #: cell; a logit of how central the cell is in the box.
    levels: tuple[tuple[int, int], ...] = ()
    #: (C, H, W) of each of the grids that is given as numbers a pixel, not as tokens.
    pixels: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class HeadFeatures:
    """Features of B samples of at most N tokens, after the encoder's final norm."""

    tokens: Float[Tensor, "B N D"]
    #: Which of them are no padding.
    valid: Bool[Tensor, "B N"]
    #: Those of each grid as a map (B, D, h, w); 0 where a sample does not have it.
    maps: Mapping[str, Float[Tensor, "B D h w"]]
    #: What the encoder saw of each of `HeadSpec.pixels`, normalised, (B, C, H, W); 0 where a sample does not have it.
    pixels: Mapping[str, Float[Tensor, "B C H W"]] = field(default_factory=dict)

    def pooled(self) -> Float[Tensor, "B D"]:
        """The mean over the tokens of each sample; 0 for a sample without any."""
        valid = self.valid[..., None]
        return (self.tokens * valid).sum(1) / valid.sum(1).clamp(min=1)

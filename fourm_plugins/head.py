"""What the head of a task must produce (`HeadSpec`), and its input (`HeadFeatures`): an encoder's features.

A package adds a head as an entry point of group `fourm.heads.v1`: a function, or a class of `torch.nn.Module`, called
as `make(spec, **options)`. Its `forward(features)` returns (B, outputs); a map (B, outputs, H, W) of `spec.size`; or
(B, cells, outputs + 5), an object for each cell of `spec.levels`. Loss, metrics and data belong to the task.
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
    """The shapes of a head's input and output."""

    #: D, the width of the features.
    width: int
    #: Numbers per sample, or per pixel: classes, or channels.
    outputs: int
    #: {name: (h, w)} of the inputs that are grids, in tokens.
    grids: Mapping[str, tuple[int, int]]
    #: (H, W) of the output map; None for one vector per sample.
    size: tuple[int, int] | None = None
    #: (h, w) of the grids of a detector, the finest first. For each cell, level by level and row by row, it predicts a
    #: logit per class; the distances from the middle of the cell to the left, top, right and bottom of the box, in
    #: sides of the cell; and a logit of how central the cell is in the box.
    levels: tuple[tuple[int, int], ...] = ()
    #: {name: (C, H, W)} of the inputs given as pixel values rather than as tokens.
    pixels: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class HeadFeatures:
    """Features of B samples of at most N tokens, float, after the encoder's final norm."""

    tokens: Float[Tensor, "B N D"]
    #: False for padding, whose features are undefined.
    valid: Bool[Tensor, "B N"]
    #: The features of each grid as a map; 0 where a sample lacks it.
    maps: Mapping[str, Float[Tensor, "B D h w"]]
    #: The pixel values of the inputs in `HeadSpec.pixels`, normalised, as the encoder saw them; 0 where a sample lacks
    #: it.
    pixels: Mapping[str, Float[Tensor, "B C H W"]] = field(default_factory=dict)

    def pooled(self) -> Float[Tensor, "B D"]:
        """The mean over the tokens of each sample; 0 for a sample without any."""
        valid = self.valid[..., None]
        return (self.tokens * valid).sum(1) / valid.sum(1).clamp(min=1)

"""Edges of pictures: `canny_edge`, where colours change, and `sam_edge`, the outlines of SAM's instances.

Files: PNG, JPEG or WebP, edges bright on black. Value: uint8 (H, W, 3), grey. Array: float32 (1, H, W) in [-1, 1];
`channels: 3` repeats it.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from fourm_more21.named import Named
from fourm_plugins import images
from fourm_plugins.bases import PictureGrid
from fourm_plugins.spec import FeatureMap


class EdgeSettings(images.TokenSettings):
    #: Of the tokenizer's array.
    channels: Literal[1, 3] = 1


class _Edges(Named, PictureGrid):
    Settings = EdgeSettings
    licence = "Apache-2.0"

    def make_array(self) -> FeatureMap:
        return super().make_array().model_copy(update={"channels": self.settings.channels})

    def normalise(self, value: np.ndarray) -> np.ndarray:
        grey = super().normalise(value).mean(0, keepdims=True)
        return np.ascontiguousarray(grey.repeat(self.settings.channels, 0), np.float32)

    def denormalise(self, array: np.ndarray | str) -> np.ndarray:
        assert isinstance(array, np.ndarray)
        return super().denormalise(array.mean(0, keepdims=True).repeat(3, 0))


class CannyEdge(_Edges):
    published_prefix = "tok_canny_edge"
    description = "edges where colours change (Canny)"


class SamEdge(_Edges):
    published_prefix = "tok_sam_edge"
    description = "outlines of SAM's instances"

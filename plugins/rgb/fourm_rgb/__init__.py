"""RGB pictures: `rgb`, tokens as input and target, and `rgb@pixels`, patches of pixels as input only.

Files: PNG, JPEG or WebP. Value: uint8 (H, W, 3). Array: float32 (3, H, W), in [-1, 1] ("unit", what the published
tokenizers take) or standardised by ImageNet's mean and deviation ("imagenet", what the published models take as
pixels).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

import numpy as np

from fourm_plugins import Metric, images
from fourm_plugins.bases import PictureGrid
from fourm_plugins.contrastive import contrastive
from fourm_rgb.measures import frechet_distance, ssim

_MEAN = np.array([0.485, 0.456, 0.406], np.float32)[:, None, None]
_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)[:, None, None]


class PixelSettings(images.PictureSettings):
    source: str = "rgb"
    #: "unit": [-1, 1]. "imagenet": standardised by the mean and deviation of ImageNet's colours.
    normalisation: Literal["unit", "imagenet"] = "imagenet"


class TokenSettings(images.TokenSettings):
    source: str = "rgb"
    codebook_size: int = 16384
    normalisation: Literal["unit", "imagenet"] = "unit"


class _Picture(PictureGrid):
    claims = frozenset({"exact_files", "no_directions"})
    folders = ("image", "img", "picture", "photo", "photograph", "colour", "color", "frame", "jpg", "jpeg")
    licence = "Apache-2.0"

    def metrics(self) -> tuple[Metric, ...]:
        return (*super().metrics(), Metric("SSIM", ssim, True))

    def network_metrics(self, model: str) -> tuple[Metric, ...]:
        return (frechet_distance(model),)

    def contrastive(self, model: str) -> Callable[[Sequence[np.ndarray]], np.ndarray]:
        return contrastive(model, install="fourm-rgb[fid]").pictures

    def normalise(self, value: np.ndarray) -> np.ndarray:
        if self.settings.normalisation == "unit":
            return super().normalise(value)
        return (value.transpose(2, 0, 1).astype(np.float32) / 255 - _MEAN) / _DEVIATION

    def denormalise(self, array: np.ndarray | str) -> np.ndarray:
        assert isinstance(array, np.ndarray)
        if self.settings.normalisation == "unit":
            return super().denormalise(array)
        return super().denormalise((array * _DEVIATION + _MEAN) * 2 - 1)


class RGB(_Picture):
    """Pictures as tokens."""

    Settings = TokenSettings
    published_settings: ClassVar = {"normalisation": "unit"}
    published_prefix = "tok_rgb"
    description = "RGB picture, as tokens"


class RGBPixels(_Picture):
    """Pictures as patches of pixels: input only."""

    Settings = PixelSettings
    published_settings: ClassVar = {"normalisation": "imagenet"}
    published_prefix = "rgb"
    description = "RGB picture, as patches of pixels"

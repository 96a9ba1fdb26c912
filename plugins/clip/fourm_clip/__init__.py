"""CLIP feature maps: a contrastive image-text model's features of each part of a picture.

Files: .npy, float16 or float32 (h, w, channels). Value: float32 (h, w, channels), covering the whole picture whatever
its shape. Array: float32 (channels, rows, columns) of the token grid, each feature scaled to length sqrt(channels)
("unit", so that its numbers are of the order of 1) or left as it is ("none").
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from fourm_clip.labeller import ClipLabeller
from fourm_plugins import Modality
from fourm_plugins.bases import FeatureGrid, FeatureSettings
from fourm_plugins.labelling import NetworkOptions, label_options, model_needed

__all__ = ["CLIP", "ClipLabeller"]


class ClipSettings(FeatureSettings):
    source: str = "clip"
    channels: int = Field(default=512, ge=1)


class CLIP(FeatureGrid):
    Settings = ClipSettings
    claims = frozenset({"no_directions"})
    folders = ("feature", "embedding")
    published_prefix = "tok_clip"
    licence = "Apache-2.0"
    description = "CLIP feature map"

    def label_sources(self, model: str | None) -> tuple[str, ...]:
        return ("rgb",)

    def labeller(self, source: Modality, model: str | None, **options: Any) -> ClipLabeller:
        """Feature maps of pictures; `model` is a CLIP model's Hub name or folder. Options: `NetworkOptions`."""
        if model is None:
            raise model_needed(self.name, "a CLIP model", "openai/clip-vit-base-patch16")
        labeller = ClipLabeller(model, label_options(NetworkOptions, options, target=self.name))
        if labeller.channels != self.settings.channels:
            raise ValueError(
                f"{model} gives features of {labeller.channels} channels, {self.name} is set to "
                f"{self.settings.channels}; set channels: {labeller.channels}"
            )
        return labeller

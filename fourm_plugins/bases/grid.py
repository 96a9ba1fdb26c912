"""GridModality: the base of all modalities on a grid of patches, whatever the content of their pixels.

Builds the spec from `images.TokenSettings` (tokens) or `images.PictureSettings` (continuous input). Values have rows
and columns first, (H, W) or (H, W, C), and are cropped and resized by a view.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel

from fourm_plugins import images
from fourm_plugins.bases.standard import StandardModality
from fourm_plugins.spec import ClassMap, FeatureMap, ModalitySpec
from fourm_plugins.view import View


class GridModality(StandardModality[np.ndarray]):
    """Define `make_array`, `read`, `write`, `normalise`, `denormalise`, `render`, `metrics` and `example_samples`."""

    Settings: ClassVar[type[BaseModel]] = images.TokenSettings
    #: Terms of the tokenizer's reconstruction loss, with their weights.
    loss: ClassVar[Mapping[str, float]] = {"mse": 1.0}
    #: Whether the mean of codes is a better prediction than the most likely code.
    expected_decoding: ClassVar[bool] = True
    uses_variant = False
    #: Name in the published format, before "@" and the size.
    published_prefix: ClassVar[str | None] = None

    @abstractmethod
    def make_array(self) -> FeatureMap | ClassMap:
        """The spec of what `normalise` returns, at the size in the settings."""

    def make_spec(self) -> ModalitySpec:
        """One token per patch; if the settings have no tokens, patches of pixels, as input only."""
        s = self.settings
        tokens = isinstance(s, images.TokenSettings)
        return self.build_spec(
            layout=s.grid(),
            array=self.make_array(),
            token_space=s.token_space(self.name) if tokens else None,
            tokenizer=s.recipe(loss=dict(self.loss)) if tokens else None,
            target=tokens,
            expected_decoding=tokens and self.expected_decoding,
            published_name=s.published(self.published_prefix) if self.published_prefix else None,
        )

    def from_object(self, given: Any) -> np.ndarray:
        """Reject lists and the like, which have no dtype."""
        raise self.refusal(given)

    def aspect(self, value: np.ndarray) -> float | None:
        return float(value.shape[1] / value.shape[0])

    def augment(self, value: np.ndarray, view: View) -> np.ndarray:
        """Nearest neighbour for classes and values with gaps, which cannot be interpolated; otherwise bilinear with
        antialiasing."""
        array = self.spec.array
        assert isinstance(array, (FeatureMap, ClassMap))
        size = array.height, array.width
        if isinstance(array, ClassMap) or array.gaps:
            return images.view_map(value, view, size)
        if value.ndim == 2:
            return images.view_features(value[..., None], view, size)[..., 0]
        return images.view_features(value, view, size)

"""CLIP feature maps: what a contrastive image-text model says of each part of a picture.

Files: .npy, float16 or float32 (h, w, channels). Value: float32 (h, w, channels), covering the whole picture whatever
its shape. Array: float32 (channels, rows, columns) of the token grid, each feature scaled to length sqrt(channels)
("unit", so that its numbers are of the order of 1) or left as it is ("none").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from PIL import Image
from pydantic import Field

from fourm_clip.labeller import ClipLabeller
from fourm_plugins import FeatureMap, Metric, Modality, ModalitySpec, SampleError, TokenizerRecipe, View, images

__all__ = ["CLIP", "ClipLabeller", "cosine_similarity"]

_EXTENSIONS = ("npy",)
_CELL = 16  # pixels of a feature in pictures for people
_LOSS = {"mse": 1.0, "cosine": 1.0}


class ClipSettings(images.TokenSettings):
    """The token grid is image_size / patch_size, as of the picture that the features describe."""

    small: ClassVar[Mapping[str, Any]] = {**images.TokenSettings.small, "channels": 16}

    source: str = "clip"
    channels: int = Field(default=512, ge=1)
    normalisation: Literal["unit", "none"] = "unit"


class CLIP(Modality[np.ndarray]):
    Settings = ClipSettings

    def make_spec(self) -> ModalitySpec:
        grid = self.settings.grid()
        return ModalitySpec(
            name=self.name,
            layout=grid,
            array=FeatureMap(channels=self.settings.channels, height=grid.height, width=grid.width),
            token_space=self.settings.token_space(self.name),
            tokenizer=TokenizerRecipe(kind="vqvae", settings={"loss": _LOSS, **self.settings.tokenizer}),
            source=self.settings.source,
            extensions=_EXTENSIONS,
            expected_decoding=True,
            published_name=self.settings.published("tok_clip"),
            licence="Apache-2.0",
            description="CLIP feature map",
        )

    def read(self, files: Mapping[str, bytes]) -> np.ndarray:
        value = images.decode_array(images.only_file(files, _EXTENSIONS)[1], ndim=3).astype(np.float32)
        if value.shape[2] != self.settings.channels:
            raise SampleError(f"features of {value.shape[2]} channels; {self.name} is set to {self.settings.channels}")
        if not np.isfinite(value).all():
            row, column, _ = np.argwhere(~np.isfinite(value))[0]
            raise SampleError(f"feature at row {row}, column {column} is NaN or infinite")
        if not value.any(-1).all():
            row, column = np.argwhere(~value.any(-1))[0]
            raise SampleError(f"feature at row {row}, column {column} is zero in all channels")
        return value

    def write(self, value: np.ndarray) -> dict[str, bytes]:
        """In float16, or float32 where numbers are too large for it."""
        small = np.abs(value).max() < 6e4
        return {"npy": images.encode_array(value.astype(np.float16 if small else np.float32))}

    def augment(self, value: np.ndarray, view: View) -> np.ndarray:
        grid = self.spec.layout
        return images.view_features(value, view, (grid.height, grid.width))  # type: ignore[union-attr]

    def normalise(self, value: np.ndarray) -> np.ndarray:
        scaled = _unit(value) * self.settings.channels**0.5 if self.settings.normalisation == "unit" else value
        return np.ascontiguousarray(scaled.transpose(2, 0, 1), np.float32)

    def denormalise(self, array: np.ndarray | str) -> np.ndarray:
        """Of unit length where "unit" took the length away."""
        assert isinstance(array, np.ndarray)
        value = np.ascontiguousarray(array.transpose(1, 2, 0), np.float32)
        return _unit(value) if self.settings.normalisation == "unit" else value

    def render(self, value: np.ndarray) -> Image.Image:
        """Three fixed random projections of the features as red, green and blue, each centred on the map: like features
        have like colours within a map, and like maps look alike."""
        axes = np.random.default_rng(0).normal(size=(value.shape[2], 3))
        shown = _unit(value) @ axes
        shown = (shown - shown.mean((0, 1))) / np.maximum(shown.std((0, 1)), 1e-6)
        colours = np.rint(np.clip(shown / 4 + 0.5, 0, 1) * 255).astype(np.uint8)
        return Image.fromarray(colours.repeat(_CELL, 0).repeat(_CELL, 1))

    def metrics(self) -> tuple[Metric, ...]:
        return (Metric("cosine similarity", cosine_similarity, True),)

    def constants(self, values: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """The mean of the features' directions, one everywhere and one at each place: of highest mean cosine."""
        total = np.zeros(images.stack(values[:1]).shape[1:])
        for value in values:
            if value.shape != total.shape:
                images.stack([values[0], value])  # raises: they differ in size
            total += _unit(value)
        one = np.broadcast_to(total.sum((0, 1)), total.shape)
        return {"one value": _unit(one).astype(np.float32), "one image": _unit(total).astype(np.float32)}

    def labeller(self, source: Modality, model: str | None, **options: Any) -> ClipLabeller:
        """Feature maps of pictures; `model` is a CLIP model's Hub name or folder. Options: batch_size, device."""
        if model is None:
            raise ValueError(
                f"{self.name} needs a CLIP model: name one, a folder or a Hub id such as openai/clip-vit-base-patch16"
            )
        labeller = ClipLabeller(model, **options)
        if labeller.channels != self.settings.channels:
            raise ValueError(
                f"{model} gives features of {labeller.channels} channels, {self.name} is set to "
                f"{self.settings.channels}; set channels: {labeller.channels}"
            )
        return labeller

    def example_samples(self, n: int, seed: int) -> list[dict[str, bytes]]:
        height, width = self.spec.layout.height, self.spec.layout.width  # type: ignore[union-attr]
        samples = []
        for index, regions in enumerate(images.example_regions(n, seed)):
            features = np.random.default_rng([seed, index, 7]).normal(size=(4, self.settings.channels))
            value = images.view_features(features[regions], View(), (height, width))
            samples.append(self.write(_unit(value)))
        return samples


def cosine_similarity(predictions: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> float:
    """Mean cosine between predicted and true features, over the places of all maps."""
    cosines = [(_unit(p) * _unit(t)).sum(-1).ravel() for p, t in zip(predictions, truths, strict=True)]
    return float(np.concatenate(cosines).mean())


def _unit(value: np.ndarray) -> np.ndarray:
    return value / np.maximum(np.linalg.norm(value, axis=-1, keepdims=True), 1e-12)

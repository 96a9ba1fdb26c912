"""FeatureGrid: feature maps of a pretrained network.

Files: .npy, float16 or float32 (h, w, channels). Value: float32 (h, w, channels), covering the whole picture, whatever
its shape. Array: float32 (channels, rows, columns) of the token grid, with each feature scaled to length sqrt(channels)
("unit", so that its entries are of order 1) or unchanged ("none").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from PIL import Image
from pydantic import BaseModel, Field

from fourm_plugins import images, inputs
from fourm_plugins.arrays import as_float32
from fourm_plugins.bases.grid import GridModality
from fourm_plugins.errors import SampleError
from fourm_plugins.modality import Metric
from fourm_plugins.recognition import Recognised, contents, usable
from fourm_plugins.spec import FeatureMap, Grid
from fourm_plugins.view import View

_CELL = 16  # pixels per feature in rendered pictures
_LARGEST = 1e15  # maximum of a feature's entries, so that float32 can hold its squared length


class FeatureSettings(images.TokenSettings):
    """The token grid has image_size / patch_size rows and columns, for the picture that the features describe."""

    small: ClassVar[Mapping[str, Any]] = {**images.TokenSettings.small, "channels": 16}

    channels: int = Field(ge=1)
    normalisation: Literal["unit", "none"] = "unit"


class FeatureGrid(GridModality):
    """One feature vector per token."""

    Settings: ClassVar[type[BaseModel]] = FeatureSettings
    extensions = ("npy",)
    accepts = "features, float32 (h, w, channels)"
    loss: ClassVar[Mapping[str, float]] = {"mse": 1.0, "cosine": 1.0}

    @classmethod
    def recognise(cls, samples: Sequence[Mapping[str, bytes]]) -> Recognised | None:
        """Three-dimensional arrays with at least eight channels, the same number in all files."""
        arrays = usable(contents(samples, cls.extensions), lambda content: images.decode_array(content, ndim=3).shape)
        # Feature maps have at least as many channels as rows or columns; channels are last or, failing that, first.
        for last in (True, False):
            shapes = [(s[:2], s[2]) if last else (s[1:], s[0]) for s in arrays]
            channels = {number for _, number in shapes}
            if len(channels) == 1 and min(channels) >= 8 and all(max(grid) <= max(64, *channels) for grid, _ in shapes):
                number = channels.pop()
                why = "numbers that each feature has"
                return Recognised(0.8, f"features of {number} channels", {"channels": (number, why)})
        return None

    def make_array(self) -> FeatureMap:
        grid = self.settings.grid()
        return FeatureMap(channels=self.settings.channels, height=grid.height, width=grid.width)

    def aspect(self, value: np.ndarray) -> float | None:
        """None: a square map may describe a picture of any shape."""
        return None

    def read(self, files: Mapping[str, bytes]) -> np.ndarray:
        return self.from_array(images.decode_array(images.only_file(files, self.extensions)[1], ndim=3))

    def from_array(self, array: np.ndarray) -> np.ndarray:
        """(h, w, channels), or channels first if the last axis does not fit."""
        channels = self.settings.channels
        if array.ndim == 3 and channels not in (array.shape[2], array.shape[0]):
            raise SampleError(f"features of {array.shape[2]} channels {array.shape}; channels is set to {channels}")
        value = as_float32(inputs.channels_last(array, (channels,), self.accepted_inputs()), _LARGEST)
        if not np.isfinite(value).all():
            row, column, _ = np.argwhere(~np.isfinite(value))[0]
            raise SampleError(f"feature at row {row}, column {column} is NaN or infinite")
        if not value.any(-1).all():
            row, column = np.argwhere(~value.any(-1))[0]
            raise SampleError(f"feature at row {row}, column {column} is zero in all channels")
        return value

    def write(self, value: np.ndarray) -> dict[str, bytes]:
        """A float16 .npy file, or float32 if numbers are too large."""
        small = np.abs(value).max() < 6e4
        return {"npy": images.encode_array(value.astype(np.float16 if small else np.float32))}

    def normalise(self, value: np.ndarray) -> np.ndarray:
        scaled = unit(value) * self.settings.channels**0.5 if self.settings.normalisation == "unit" else value
        return np.ascontiguousarray(scaled.transpose(2, 0, 1), np.float32)

    def denormalise(self, array: np.ndarray | str) -> np.ndarray:
        """Features of unit length if "unit" removed their length."""
        assert isinstance(array, np.ndarray)
        value = np.ascontiguousarray(array.transpose(1, 2, 0), np.float32)
        return unit(value) if self.settings.normalisation == "unit" else value

    def render(self, value: np.ndarray) -> Image.Image:
        """The first three principal components of the features as red, green and blue: similar features get similar
        colours."""
        return self.render_all([value])[0]

    def render_all(self, values: Sequence[np.ndarray]) -> list[Image.Image]:
        """Components over all maps together, so that colours are comparable."""
        shown = principal([unit(value) for value in values])
        colours = [np.rint(np.clip(x / 5 + 0.5, 0, 1) * 255).astype(np.uint8) for x in shown]
        return [Image.fromarray(c.repeat(_CELL, 0).repeat(_CELL, 1)) for c in colours]

    def metrics(self) -> tuple[Metric, ...]:
        return (Metric("cosine similarity", cosine_similarity, True),)

    def constants(self, values: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """The mean direction of the features, overall and per position; these maximise the mean cosine."""
        total = np.zeros(images.common_shape(values))
        for value in values:
            total += unit(value)
        everywhere = np.broadcast_to(total.sum((0, 1)), total.shape)
        return {"one value": unit(everywhere).astype(np.float32), "one image": unit(total).astype(np.float32)}

    def example_samples(self, n: int, seed: int) -> list[dict[str, bytes]]:
        grid = self.spec.layout
        assert isinstance(grid, Grid)
        samples = []
        for index, regions in enumerate(images.example_regions(n, seed)):
            features = np.random.default_rng([seed, index, 7]).normal(size=(4, self.settings.channels))
            value = images.view_features(features[regions], View(), (grid.height, grid.width))
            samples.append(self.write(unit(value)))
        return samples


def cosine_similarity(predictions: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> float:
    """Mean cosine between predicted and true features, over all positions of all maps."""
    cosines = [(unit(p) * unit(t)).sum(-1).ravel() for p, t in zip(predictions, truths, strict=True)]
    return float(np.concatenate(cosines).mean())


def principal(values: Sequence[np.ndarray]) -> list[np.ndarray]:
    """(h, w, 3) for each map (h, w, channels): the first three principal components over all maps, each with mean 0 and
    standard deviation 1; 0 if there are fewer. The sign of a component is fixed by its largest entry."""
    if not values:
        return []
    rows = np.concatenate([value.reshape(-1, value.shape[2]) for value in values]).astype(np.float64)
    mean = rows.mean(0)
    centred = rows - mean
    wide = centred.shape[1] > len(centred)  # the smaller of the two products has the same eigenvalues
    variances, vectors = np.linalg.eigh((centred @ centred.T if wide else centred.T @ centred) / len(rows))
    axes = np.zeros((rows.shape[1], 3))
    for k, (variance, vector) in enumerate(zip(variances[::-1][:3], vectors.T[::-1])):
        if variance > 1e-12:
            axis = unit(centred.T @ vector) if wide else vector
            axes[:, k] = axis * np.sign(axis[np.abs(axis).argmax()]) / variance**0.5
    return [(value - mean) @ axes for value in values]


def unit(value: np.ndarray) -> np.ndarray:
    """Vectors (..., channels) scaled to length 1; zero stays zero."""
    return np.asarray(value / np.maximum(np.linalg.norm(value, axis=-1, keepdims=True), 1e-12))

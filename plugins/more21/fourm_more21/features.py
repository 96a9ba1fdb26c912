"""Features of DINOv2 and ImageBind: of each part of a picture, and of the whole.

`dinov2`, `imagebind`: as `fourm_plugins.bases.FeatureGrid`, at a patch of 14 pixels. `dinov2_global`,
`imagebind_global`: files .npy, float16 or float32 (channels,); the value is float32 (channels,), the array the same
scaled to length sqrt(channels) ("unit") or as it is ("none"); 16 tokens, each with a codebook of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from PIL import Image
from pydantic import Field

from fourm_more21.named import Named
from fourm_plugins import Metric, SampleError, View, images
from fourm_plugins.arrays import as_float32
from fourm_plugins.bases import FeatureGrid, FeatureSettings
from fourm_plugins.bases.features import cosine_similarity, unit
from fourm_plugins.bases.standard import StandardModality
from fourm_plugins.settings import Settings
from fourm_plugins.spec import FeatureVector, ModalitySpec, TokenizerRecipe, TokenSpace, Vector

_LARGEST = 1e15  # of a number of a feature, of which float32 holds the squared length


class GridSettings(FeatureSettings):
    channels: int = Field(default=768, ge=1)
    patch_size: int | tuple[int, int] = 14


class DINOv2(Named, FeatureGrid):
    Settings = GridSettings
    claims = frozenset({"no_directions"})
    published_prefix = "tok_dinov2"
    licence = "Apache-2.0"
    description = "DINOv2 feature map"


class ImageBindSettings(GridSettings):
    channels: int = Field(default=1280, ge=1)


class ImageBind(Named, FeatureGrid):
    Settings = ImageBindSettings
    claims = frozenset({"no_directions"})
    published_prefix = "tok_imagebind"
    licence = "Apache-2.0"
    description = "ImageBind feature map"


class GlobalSettings(Settings):
    small: ClassVar[Mapping[str, Any]] = {
        "channels": 16,
        "codebook_size": 32,
        "tokens": 4,
        "tokenizer": {"width": 32, "blocks": 1},
    }
    run_only = frozenset({"source", "masker"})

    channels: int = Field(default=768, ge=1)
    tokens: int = Field(default=16, ge=1, le=4096)
    codebook_size: int = Field(default=8192, ge=2)
    normalisation: Literal["unit", "none"] = "unit"
    #: Settings of the tokenizer; `kind` chooses another kind than `mlp`.
    tokenizer: dict[str, Any] = Field(default_factory=dict)
    #: Folder of the data set to read; by default the modality's name up to an "@".
    source: str | None = None
    #: Kind of masker, in place of the layout's default.
    masker: str | None = None


class _Global(Named, StandardModality[np.ndarray]):
    """One feature of a whole picture, which no crop changes."""

    Settings = GlobalSettings
    extensions = ("npy",)
    alignment = None
    uses_variant = False
    accepts = "a feature, float32 (channels,)"
    licence = "Apache-2.0"
    published_name: ClassVar[str]

    def make_spec(self) -> ModalitySpec:
        s = self.settings
        return self.build_spec(
            layout=Vector(length=s.tokens),
            array=FeatureVector(size=s.channels),
            token_space=TokenSpace(name=self.name, size=s.codebook_size),
            tokenizer=TokenizerRecipe.choose(s.tokenizer, kind="mlp", loss={"mse": 1.0, "cosine": 1.0}),
            published_name=self.published_name,
            expected_decoding=True,
        )

    def read(self, files: Mapping[str, bytes]) -> np.ndarray:
        return self.from_array(images.decode_array(images.only_file(files, self.extensions)[1], ndim=1))

    def from_array(self, array: np.ndarray) -> np.ndarray:
        if array.shape != (self.settings.channels,):
            raise SampleError(f"a feature of shape {array.shape}; channels is set to {self.settings.channels}")
        value = as_float32(array, _LARGEST)
        if not np.isfinite(value).all() or not value.any():
            raise SampleError("the feature is zero, or holds NaN or infinity")
        return value

    def from_object(self, given: Any) -> np.ndarray:
        raise self.refusal(given)

    def write(self, value: np.ndarray) -> dict[str, bytes]:
        return {"npy": images.encode_array(value.astype(np.float32))}

    def augment(self, value: np.ndarray, view: View) -> np.ndarray:
        return value

    def normalise(self, value: np.ndarray) -> np.ndarray:
        scaled = unit(value) * self.settings.channels**0.5 if self.settings.normalisation == "unit" else value
        return np.asarray(scaled, np.float32)

    def denormalise(self, array: np.ndarray | str) -> np.ndarray:
        assert isinstance(array, np.ndarray)
        return np.asarray(unit(array) if self.settings.normalisation == "unit" else array, np.float32)

    def render(self, value: np.ndarray) -> Image.Image:
        """A square of its numbers, blue below and red above zero."""
        side = int(np.ceil(len(value) ** 0.5))
        shown = np.pad(value / max(float(np.abs(value).max()), 1e-9), (0, side * side - len(value)))
        red, blue = np.clip(1 + shown, 0, 1), np.clip(1 - shown, 0, 1)
        colours = np.stack([red, np.minimum(red, blue), blue], -1).reshape(side, side, 3)
        return Image.fromarray(np.rint(colours * 255).astype(np.uint8).repeat(4, 0).repeat(4, 1))

    def metrics(self) -> tuple[Metric, ...]:
        return (Metric("cosine similarity", cosine_similarity, True),)

    def constants(self, values: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """The features' mean direction, which has the highest mean cosine."""
        return {"one value": np.asarray(unit(sum(unit(value) for value in values)), np.float32)}

    def example_samples(self, n: int, seed: int) -> list[dict[str, bytes]]:
        kinds = np.random.default_rng([seed, 12]).normal(size=(4, self.settings.channels))
        drawn = (np.random.default_rng([seed, index, 12]) for index in range(n))
        values = [kinds[rng.integers(4)] + 0.3 * rng.normal(size=self.settings.channels) for rng in drawn]
        return [self.write(np.asarray(unit(value), np.float32)) for value in values]


class DINOv2Global(_Global):
    published_name = "tok_dinov2_global"
    description = "DINOv2 feature of the whole picture"


class ImageBindGlobalSettings(GlobalSettings):
    channels: int = Field(default=1280, ge=1)


class ImageBindGlobal(_Global):
    Settings = ImageBindGlobalSettings
    published_name = "tok_imagebind_global"
    description = "ImageBind feature of the whole picture"

"""RGB pictures: `rgb`, tokens to see and to predict, and `rgb@pixels`, patches of pixels to see only.

Files: PNG, JPEG or WebP. Value: uint8 (H, W, 3). Array: float32 (3, H, W), in [-1, 1] ("unit", what the published
tokenizers take) or standardised by ImageNet's mean and deviation ("imagenet", what the published models take as
pixels).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from PIL import Image

from fourm_plugins import FeatureMap, Metric, Modality, ModalitySpec, TokenizerRecipe, View, images

_MEAN = np.array([0.485, 0.456, 0.406], np.float32)[:, None, None]
_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)[:, None, None]
_EXTENSIONS = ("png", "jpg", "jpeg", "webp")


class PixelSettings(images.PictureSettings):
    source: str = "rgb"
    #: "unit": [-1, 1]. "imagenet": minus the mean, over the standard deviation of ImageNet's colours.
    normalisation: Literal["unit", "imagenet"] = "imagenet"


class TokenSettings(images.TokenSettings):
    source: str = "rgb"
    codebook_size: int = 16384
    normalisation: Literal["unit", "imagenet"] = "unit"


class _Picture(Modality[np.ndarray]):
    claims = frozenset({"exact_files"})

    def read(self, files: Mapping[str, bytes]) -> np.ndarray:
        return images.decode_rgb(images.only_file(files, _EXTENSIONS)[1])

    def write(self, value: np.ndarray) -> dict[str, bytes]:
        return {"png": images.encode_png(value)}

    def aspect(self, value: np.ndarray) -> float:
        return value.shape[1] / value.shape[0]

    def augment(self, value: np.ndarray, view: View) -> np.ndarray:
        return images.view_picture(value, view, self.settings.size)

    def normalise(self, value: np.ndarray) -> np.ndarray:
        planes = value.transpose(2, 0, 1).astype(np.float32)
        if self.settings.normalisation == "unit":
            return planes / 127.5 - 1
        return (planes / 255 - _MEAN) / _DEVIATION

    def denormalise(self, array: np.ndarray | str) -> np.ndarray:
        assert isinstance(array, np.ndarray)
        unit = (array + 1) / 2 if self.settings.normalisation == "unit" else array * _DEVIATION + _MEAN
        return np.rint(np.clip(unit, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)

    def render(self, value: np.ndarray) -> Image.Image:
        return Image.fromarray(np.ascontiguousarray(value))

    def metrics(self) -> tuple[Metric, ...]:
        return Metric("PSNR", psnr, True, "dB"), Metric("mean absolute error", mean_absolute_error, False, "of 255")

    def constants(self, values: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """The mean colour everywhere, and the mean picture: of least squared error, so of highest PSNR."""
        total = np.zeros(images.stack(values[:1]).shape[1:])
        for value in values:
            if value.shape != total.shape:
                images.stack([values[0], value])  # raises: they differ in size
            total += value
        mean = total / len(values)
        colour = np.broadcast_to(mean.mean((0, 1)), mean.shape)
        return {name: np.rint(x).astype(np.uint8) for name, x in (("one value", colour), ("one image", mean))}

    def example_samples(self, n: int, seed: int) -> list[dict[str, bytes]]:
        samples = []
        for index, regions in enumerate(images.example_regions(n, seed)):
            colours = np.random.default_rng([seed, index, 1]).uniform(40, 255, (4, 3))
            light = np.linspace(1, 0.6, regions.shape[0])[:, None, None]
            samples.append(self.write(np.rint(colours[regions] * light).astype(np.uint8)))
        return samples


class RGB(_Picture):
    """Pictures as tokens."""

    Settings = TokenSettings

    def make_spec(self) -> ModalitySpec:
        height, width = self.settings.size
        return ModalitySpec(
            name=self.name,
            layout=self.settings.grid(),
            array=FeatureMap(channels=3, height=height, width=width),
            token_space=self.settings.token_space(self.name),
            tokenizer=TokenizerRecipe(kind="vqvae", settings={"loss": {"mse": 1.0}, **self.settings.tokenizer}),
            source=self.settings.source,
            extensions=_EXTENSIONS,
            expected_decoding=True,
            published_name=self.settings.published("tok_rgb"),
            licence="Apache-2.0",
            description="RGB picture, as tokens",
        )


class RGBPixels(_Picture):
    """Pictures as patches of pixels: input only."""

    Settings = PixelSettings

    def make_spec(self) -> ModalitySpec:
        height, width = self.settings.size
        return ModalitySpec(
            name=self.name,
            layout=self.settings.grid(),
            array=FeatureMap(channels=3, height=height, width=width),
            target=False,
            source=self.settings.source,
            extensions=_EXTENSIONS,
            published_name=self.settings.published("rgb"),
            licence="Apache-2.0",
            description="RGB picture, as patches of pixels",
        )


def psnr(predictions: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> float:
    """Peak signal-to-noise ratio in dB of the mean squared error over every pixel of every picture; at most 100."""
    errors = [np.mean((p.astype(np.float64) - t) ** 2) for p, t in zip(predictions, truths, strict=True)]
    return float(min(100.0, 10 * np.log10(255**2 / max(np.mean(errors), 1e-12))))


def mean_absolute_error(predictions: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> float:
    """Mean difference in levels of [0, 255]."""
    return float(np.mean([np.mean(abs(p.astype(np.float64) - t)) for p, t in zip(predictions, truths, strict=True)]))

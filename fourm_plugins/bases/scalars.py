"""ScalarGrid: maps of one physical quantity, such as temperature, height or sound level.

Files: .npy (H, W), or PNG of 16 bits where `png_unit` is set. Value: float32 (H, W) in the class's `unit`, NaN where
nothing was measured if the class has `gaps`. Array: float32 (1, H, W), linear from [lowest, highest] to [-1, 1].
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from PIL import Image
from pydantic import BaseModel, Field, model_validator

from fourm_plugins import images, inputs
from fourm_plugins.arrays import as_float32
from fourm_plugins.bases.grid import GridModality
from fourm_plugins.errors import SampleError
from fourm_plugins.legend import Scale, round_numbers
from fourm_plugins.modality import Metric
from fourm_plugins.recognition import Recognised, contents, glimpse, median_size, rounded, usable
from fourm_plugins.spec import FeatureMap, ModalitySpec

#: Minimum fraction of its range that a quantity must fill; otherwise tokens lose differences that are small against it.
_FILLED = 1 / 3


class ScalarSettings(images.TokenSettings):
    """A subclass provides defaults for `lowest` and `highest`; otherwise a config must set them."""

    #: The range that tokens cover, in the modality's unit; values outside are clipped.
    lowest: float
    highest: float
    #: 16-bit PNG: value = png_zero + png_unit * count. Without `png_unit` only .npy is read and written.
    png_unit: float | None = Field(default=None, gt=0)
    png_zero: float = 0.0

    @model_validator(mode="after")
    def _range(self) -> ScalarSettings:
        if self.lowest >= self.highest:
            raise ValueError(f"lowest {self.lowest} is not below highest {self.highest}")
        return self


class ScalarGrid(GridModality):
    """A map of one quantity. With `gaps`, NaN marks pixels without a measurement (0 in a PNG), which are ignored in
    losses and metrics."""

    Settings: ClassVar[type[BaseModel]] = ScalarSettings
    extensions = ("npy",)
    loss: ClassVar[Mapping[str, float]] = {"l1": 1.0}
    unit: ClassVar[str] = ""
    gaps: ClassVar[bool] = False

    @classmethod
    def recognise(cls, samples: Sequence[Mapping[str, bytes]]) -> Recognised | None:
        """Two-dimensional arrays, or 16-bit pictures if `png_unit` has a default. A range that the data exceeds, or of
        which it fills less than `_FILLED`, is replaced with the data's."""
        arrays = usable(contents(samples, ("npy",)), lambda content: images.decode_array(content, ndim=2))
        sizes = [(a.shape[0], a.shape[1]) for a in arrays]
        if not arrays and cls.Settings.model_fields["png_unit"].default is not None:
            seen = usable(contents(samples, ("png",)), glimpse)
            seen = [picture for picture in seen if picture.mode.startswith("I")]
            arrays, sizes = [cls._of_counts(picture.middle) for picture in seen], [picture.size for picture in seen]
        numbers = [array[:: 1 + array.shape[0] // 64, :: 1 + array.shape[1] // 64].ravel() for array in arrays]
        known = np.concatenate([x[np.isfinite(x)] for x in numbers]) if numbers else np.zeros(0)
        if not known.size or (not cls.gaps and known.size < sum(x.size for x in numbers)):
            return None
        low, high = rounded(*(float(x) for x in np.quantile(known, (0.005, 0.995))))
        fields, settings, score = cls.Settings.model_fields, dict[str, tuple[Any, str]](), 0.7
        now = [fields[name].default for name in ("lowest", "highest")]
        unset = any(fields[name].is_required() for name in ("lowest", "highest"))
        inside = not unset and now[0] <= low < high <= now[1]
        if not inside or high - low < _FILLED * (now[1] - now[0]):
            score = score if inside else 0.5
            if low >= high:
                low, high = low - 1, high + 1
            settings = {
                "lowest": (low, f"{cls.unit} here and below are one value; 99% of those seen lie in the range".strip()),
                "highest": (high, f"{cls.unit} here and above are one value".strip()),
            }
        what = f"numbers from {low:g} to {high:g} {cls.unit}".strip()
        return Recognised(score, what, settings, median_size(sizes))

    @classmethod
    def _of_counts(cls, counts: np.ndarray) -> np.ndarray:
        """The values of a picture's counts under the default settings: float32, NaN where nothing was measured."""
        unit, zero = (cls.Settings.model_fields[name].default for name in ("png_unit", "png_zero"))
        value = np.asarray(counts * unit + zero, np.float32)
        if cls.gaps:
            value[counts == 0] = np.nan
        return value

    def make_array(self) -> FeatureMap:
        height, width = self.settings.size
        return FeatureMap(channels=1, height=height, width=width, gaps=self.gaps)

    def make_spec(self) -> ModalitySpec:
        spec = super().make_spec()
        if self.settings.png_unit is None or "png" in spec.extensions:
            return spec
        return spec.model_copy(update={"extensions": (*spec.extensions, "png")})

    def read(self, files: Mapping[str, bytes]) -> np.ndarray:
        extension, content = images.only_file(files, self.spec.extensions)
        if extension == "png":
            return self.from_picture(images.decode_picture(content))
        return self.from_array(images.decode_array(content, ndim=2))

    def from_picture(self, picture: Image.Image) -> np.ndarray:
        s = self.settings
        if picture.mode == "F":
            return self.from_array(np.asarray(images.upright(picture)))
        if s.png_unit is None:
            raise self.refusal(picture, "what a count of a picture means is not set (png_unit)")
        counts = images.as_channel(images.upright(picture))
        if counts.dtype != np.uint16:
            raise SampleError("a picture of 16 bits is needed, this one has 8")
        value = (counts * s.png_unit + s.png_zero).astype(np.float32)
        if self.gaps:
            value[counts == 0] = np.nan
        return self._known(value)

    def from_array(self, array: np.ndarray) -> np.ndarray:
        """(H, W) in the unit. Rejects integers if pictures store counts, since they would be ambiguous."""
        array = inputs.one_channel(array, self.accepted_inputs())
        if array.dtype == np.bool_ or (array.dtype.kind in "iu" and self.settings.png_unit is not None):
            raise self.refusal(array, "integers may be a picture's counts; give floats, or the picture itself")
        return self._known(as_float32(array))

    def accepted_inputs(self) -> str:
        return f"{self.unit or 'the quantity'} as float32 (H, W), or a file (.{', .'.join(self.spec.extensions)})"

    def _known(self, value: np.ndarray) -> np.ndarray:
        """The validated value, with NaN where nothing was measured."""
        finite = np.isfinite(value)
        if self.gaps:
            return self._measured(np.where(finite, value, np.float32(np.nan)))
        if not finite.all():
            row, column = np.argwhere(~finite)[0]
            raise SampleError(f"value {value[row, column]} at row {row}, column {column}; all must be finite")
        return value

    def write(self, value: np.ndarray) -> dict[str, bytes]:
        """A PNG if `png_unit` is set and 16 bits can hold the values, else .npy."""
        s = self.settings
        if s.png_unit is not None:
            known = np.isfinite(value)
            counts = np.rint((np.where(known, value, s.png_zero).astype(np.float64) - s.png_zero) / s.png_unit)
            first = 1 if self.gaps else 0  # 0 means "nothing measured"
            if counts[known].min(initial=first) >= first and counts.max(initial=0) <= 65535:
                return {"png": images.encode_png(counts.astype(np.uint16))}
        return {"npy": images.encode_array(value.astype(np.float32))}

    def normalise(self, value: np.ndarray) -> np.ndarray:
        if self.gaps:
            self._measured(value)
        s = self.settings
        return np.asarray(np.clip(2 * (value - s.lowest) / (s.highest - s.lowest) - 1, -1, 1), np.float32)[None]

    def denormalise(self, array: np.ndarray | str) -> np.ndarray:
        assert isinstance(array, np.ndarray)
        s = self.settings
        return np.asarray(s.lowest + (np.clip(array[0], -1, 1) + 1) / 2 * (s.highest - s.lowest), np.float32)

    def render(self, value: np.ndarray) -> Image.Image:
        """Dark violet is `lowest`, yellow `highest`; black where nothing was measured."""
        s = self.settings
        level = np.clip((value - s.lowest) / (s.highest - s.lowest), 0, 1)
        return Image.fromarray(images.colour_map(level))

    def legend(self, value: np.ndarray) -> Scale:
        low, high = self.settings.lowest, self.settings.highest
        marks = tuple(((number - low) / (high - low), f"{number:g}") for number in round_numbers(low, high))
        return Scale(images.colour_map(np.linspace(0, 1, 256)), marks, self.unit)

    def metrics(self) -> tuple[Metric, ...]:
        def absolute(predictions: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> float:
            return float(np.abs(self._differences(predictions, truths)).mean())

        def squared(predictions: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> float:
            return float(np.sqrt((self._differences(predictions, truths) ** 2).mean()))

        return Metric("mean absolute error", absolute, False, self.unit), Metric("RMSE", squared, False, self.unit)

    def constants(self, values: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """The median over all pixels, and the median of each pixel; these minimise the mean absolute error."""
        stacked = images.stack(values)
        value = np.float32(np.nanmedian(stacked))
        with warnings.catch_warnings():  # of a pixel that no map has
            warnings.simplefilter("ignore", RuntimeWarning)
            image = np.nanmedian(stacked, axis=0)
        image = np.where(np.isfinite(image), image, value).astype(np.float32)
        return {"one value": np.full_like(image, value), "one image": image}

    def example_samples(self, n: int, seed: int) -> list[dict[str, bytes]]:
        """Regions of constant value, on a background that rises from bottom to top."""
        s, samples = self.settings, []
        for index, regions in enumerate(images.example_regions(n, seed)):
            levels = np.random.default_rng([seed, index, 8]).uniform(0.1, 0.9, 4)
            level = np.where(regions == 0, np.linspace(0.6, 0.3, regions.shape[0])[:, None], levels[regions])
            value = (s.lowest + level * (s.highest - s.lowest)).astype(np.float32)
            if self.gaps:
                value[:3, :3] = np.nan  # a corner without measurement
            samples.append(self.write(value))
        return samples

    def _measured(self, value: np.ndarray) -> np.ndarray:
        if not np.isfinite(value).any():
            raise SampleError("no pixel holds a value: nothing was measured")
        return value

    def _differences(self, predictions: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> np.ndarray:
        """(pixels,): predicted minus true, where the truth is known; a missing prediction counts as `lowest`."""
        differences = []
        for p, t in zip(predictions, truths, strict=True):
            known = np.isfinite(t)
            differences.append(np.nan_to_num(p[known].astype(np.float64), nan=self.settings.lowest) - t[known])
        return np.concatenate(differences)

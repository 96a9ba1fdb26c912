"""Depth maps.

Files: 16-bit PNG in millimetres or .npy in metres, or in other units (`png_unit`, `npy_unit`). 0, NaN, infinity and
`no_depth` = no measurement. Value: float32 (H, W) in metres, NaN where nothing was measured. Array: float32 (1, H, W),
NaN in the same places:

- "log": metric. log(depth) mapped linearly from [min_depth, max_depth] to [-1, 1]; depths outside are clipped.
- "per_image": relative, after the paper. Each map minus the mean of the middle 80% of its depths, divided by their
  deviation. Scale and offset are lost (the inverse returns positive numbers, the nearest 1), so the metrics first fit
  both to the truth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from PIL import Image
from pydantic import Field, model_validator

from fourm_depth.labeller import DepthLabeller, DepthOptions
from fourm_depth.metrics import absolute_relative_error, aligned, constants, delta1, fitted, root_mean_squared_error
from fourm_plugins import FeatureMap, Metric, Modality, ModalitySpec, SampleError, images, inputs
from fourm_plugins.arrays import as_float32
from fourm_plugins.bases import GridModality
from fourm_plugins.labelling import label_options, model_needed
from fourm_plugins.legend import Scale, round_numbers
from fourm_plugins.recognition import LOOKED, Recognised, contents, glimpse, median_size, rounded, usable

_FAR = 300  # a median of more than this is taken for millimetres, not metres
FARTHEST = 1e9  # metres; what is beyond is damage, and would outweigh all else in "per_image"
_TRIM = 0.1  # share of the depths left out at either end by "per_image"


class DepthSettings(images.TokenSettings):
    source: str = "depth"
    normalisation: Literal["log", "per_image"] = "log"
    #: Range in metres, for "log" and for colours.
    min_depth: float = Field(default=0.1, gt=0)
    max_depth: float = Field(default=100.0, gt=0)
    #: Metres per count of the PNG.
    png_unit: float = Field(default=0.001, gt=0)
    #: Metres per count or number of the .npy, such as 0.001 for millimetres. null: floats in metres.
    npy_unit: float | None = Field(default=None, gt=0)
    #: Number in the files that means no measurement, besides 0, NaN and infinity: such as 65535, or -1.
    no_depth: float | None = None

    @model_validator(mode="after")
    def _range(self) -> DepthSettings:
        if self.min_depth >= self.max_depth:
            raise ValueError(f"min_depth {self.min_depth} is not below max_depth {self.max_depth}")
        return self


class Depth(GridModality):
    Settings = DepthSettings
    published_settings: ClassVar = {"normalisation": "per_image"}

    folders = ("depthmap", "distance", "range", "disparity")
    published_prefix = "tok_depth"
    extensions = ("png", "npy")
    accepts = "metres, float32 (H, W), NaN or 0 where nothing was measured"
    loss: ClassVar = {"l1": 1.0}
    licence = "Apache-2.0"

    @classmethod
    def recognise(cls, samples: Sequence[Mapping[str, bytes]]) -> Recognised | None:
        """16-bit pictures, or two-dimensional arrays of non-negative floats, and of integers with less confidence.
        Numbers that fill their type's range, or [0, 1], are not metres and are taken as relative."""
        counts = contents(samples, ("png",))
        maps = usable(counts, lambda content: g if (g := glimpse(content)) and g.mode.startswith("I") else None)
        if maps:
            arrays, sizes, score = [g.middle for g in maps], [g.size for g in maps], 0.9
            if float(np.median([g.flat for g in maps[:LOOKED]])) > 0.95:
                score = 0.4  # ids of classes or objects, unless the folder says otherwise
        else:
            arrays = usable(contents(samples, ("npy",)), lambda content: images.decode_array(content, ndim=2))
            sizes, score = [(a.shape[0], a.shape[1]) for a in arrays], 0.8
        integers = any(a.dtype.kind != "f" for a in arrays)
        known = np.concatenate([a[np.isfinite(a) & (a != 0)] for a in arrays]) if arrays else np.zeros(0)
        none = _mark(known, counts=integers)
        known = known[known != none]
        if not known.size or known.min() < 0:
            return None
        size, settings = median_size(sizes), dict[str, tuple[Any, str]]()
        if none is not None:
            settings["no_depth"] = (none, "this number means: nothing was measured here")
        tops = [float(seen.max()) for a in arrays if (seen := a[np.isfinite(a) & (a != none)]).size]
        if float(np.median(tops)) >= 65_000 if integers else known.max() <= 1:
            why = "the numbers fill their range: depth up to an unknown scale, not metres"
            settings["normalisation"] = ("per_image", why)
            if integers and not maps:
                settings["npy_unit"] = (1.0, "any: the scale is lost")
            return Recognised(score, "relative depth", settings, size)
        millimetres = integers or float(np.median(known)) > _FAR
        unit = 0.001 if millimetres else 1.0
        low, high = rounded(*(float(x) * unit for x in np.quantile(known, (0.005, 0.995))))
        low, high = max(low, 0.01), max(high, 0.02)
        settings |= {
            "min_depth": (low, "metres; 99% of the depths seen lie between the two, what is nearer counts as this"),
            "max_depth": (high, "metres; what is farther counts as this"),
        }
        if millimetres:
            what = "count" if integers else "number"
            why = f"metres per {what}; the farthest seen are then {high:g} m, correct it if not"
            settings["png_unit" if maps else "npy_unit"] = (unit, why)
            score = score if maps else 0.45
        return Recognised(score, f"depth of {low:g} to {high:g} m", settings, size)

    def make_array(self) -> FeatureMap:
        height, width = self.settings.size
        return FeatureMap(channels=1, height=height, width=width, gaps=True)

    def make_spec(self) -> ModalitySpec:
        description = "depth in metres" if self.settings.normalisation == "log" else "relative depth"
        return super().make_spec().model_copy(update={"description": description})

    def read(self, files: Mapping[str, bytes]) -> np.ndarray:
        extension, content = images.only_file(files, self.extensions)
        if extension == "png":
            return self.from_picture(images.decode_picture(content))
        return self.from_array(self._metres(images.decode_array(content, ndim=2), self.settings.npy_unit))

    def _metres(self, numbers: np.ndarray, unit: float | None) -> np.ndarray:
        """From the numbers of a file, unchanged where nothing says otherwise."""
        if self.settings.no_depth is not None:
            measured = numbers != self.settings.no_depth
            numbers = np.where(measured, numbers, np.nan) if numbers.dtype.kind == "f" else numbers * measured
        if unit is None:
            return numbers
        return (
            numbers * np.float32(unit) if numbers.dtype.kind == "f" else numbers.astype(np.float32) * np.float32(unit)
        )

    def from_picture(self, picture: Image.Image) -> np.ndarray:
        if picture.mode == "F":
            return self.from_array(np.asarray(images.upright(picture)))
        counts = images.as_channel(images.upright(picture))
        if counts.dtype != np.uint16:
            raise SampleError("depth needs a picture of 16 bits, this one has 8; give millimetres, or metres as .npy")
        return _measured(self._metres(counts, self.settings.png_unit))

    def from_array(self, array: np.ndarray) -> np.ndarray:
        """Metres, floats (H, W). Refuses integers: they could be a picture's counts."""
        depth = inputs.one_channel(array, self.accepted_inputs())
        if depth.dtype.kind != "f":
            raise self.refusal(array, "integers may be millimetres; give metres as floats, or the picture or its path")
        if (depth < 0).any():
            row, column = np.argwhere(depth < 0)[0]
            raise SampleError(f"depth of {depth[row, column]:g} m at row {row}, column {column}; metres are positive")
        return _measured(as_float32(depth, FARTHEST))

    def write(self, value: np.ndarray) -> dict[str, bytes]:
        """A PNG if its range can hold the depths, else .npy."""
        counts = np.rint(np.nan_to_num(value, nan=0.0) / self.settings.png_unit)
        if counts.max() > 65535 or (counts[np.isfinite(value)] < 1).any():
            return {"npy": images.encode_array(value.astype(np.float32) / np.float32(self.settings.npy_unit or 1))}
        return {"png": images.encode_png(counts.astype(np.uint16))}

    def normalise(self, value: np.ndarray) -> np.ndarray:
        """float32 (1, H, W). uint16 values are counts of a PNG, in `png_unit`; other integers raise `SampleError`."""
        if value.dtype == np.uint16:
            value = value * np.float32(self.settings.png_unit)
        elif value.dtype.kind != "f":
            raise self.refusal(value, "integers may be millimetres")
        value = _measured(value)
        if self.settings.normalisation == "per_image":
            depths = np.sort(value[np.isfinite(value)].astype(np.float64))
            cut = int(_TRIM * depths.size)
            middle = depths[cut : depths.size - cut]
            return ((value - middle.mean()) / np.sqrt(middle.var() + 1e-6)).astype(np.float32)[None]
        low, high = np.log(self.settings.min_depth), np.log(self.settings.max_depth)
        return np.clip(2 * (np.log(value) - low) / (high - low) - 1, -1, 1).astype(np.float32)[None]

    def denormalise(self, array: np.ndarray | str) -> np.ndarray:
        assert isinstance(array, np.ndarray)
        if self.settings.normalisation == "per_image":
            known = array[0][np.isfinite(array[0])]
            return (array[0] - (known.min() if known.size else 0) + 1).astype(np.float32)
        low, high = np.log(self.settings.min_depth), np.log(self.settings.max_depth)
        return np.exp(low + (np.clip(array[0], -1, 1) + 1) / 2 * (high - low)).astype(np.float32)

    def compose(self, given: np.ndarray, generated: np.ndarray, kept: np.ndarray) -> np.ndarray:
        """Relative depths first get the scale and offset that fit the given ones."""
        if self.settings.normalisation == "per_image":
            generated = fitted(generated, np.where(kept, given, np.nan)).astype(np.float32)
        return super().compose(given, generated, kept)

    def render(self, value: np.ndarray) -> Image.Image:
        """Near is yellow, far violet, on a logarithmic scale: from min_depth to max_depth where depths are metric, to
        make pictures comparable; over the map's own range where they are relative."""
        return self.render_all([value])[0]

    def render_all(self, values: Sequence[np.ndarray]) -> list[Image.Image]:
        """Relative depths over the range of all maps."""
        near, far = self._range(values)
        levels = [np.log(far / np.maximum(value, near)) / np.log(far / near) for value in values]
        return [Image.fromarray(images.colour_map(level)) for level in levels]

    def legend(self, value: np.ndarray) -> Scale:
        """Metres; of relative depths how many times as far as the nearest."""
        near, far = self._range([value])
        relative = self.settings.normalisation == "per_image"
        low, high = (1.0, far / near) if relative else (near, far)
        numbers = round_numbers(low, high, log=True)
        marks = tuple((float(np.log(d / low) / np.log(high / low)), f"{d:.3g}") for d in numbers)
        return Scale(images.colour_map(np.linspace(1, 0, 256)), marks, "relative" if relative else "m")

    def _range(self, values: Sequence[np.ndarray]) -> tuple[float, float]:
        """What is drawn as the nearest and as the farthest: metres, or numbers of relative depths."""
        known = [part for value in values if (part := value[np.isfinite(value)]).size]
        if self.settings.normalisation == "log" or not known:
            return self.settings.min_depth, self.settings.max_depth
        near = float(min(part.min() for part in known))
        return near, max(float(max(part.max() for part in known)), near * (1 + 1e-6))

    def metrics(self) -> tuple[Metric, ...]:
        relative = self.settings.normalisation == "per_image"
        metrics = (
            ("AbsRel", absolute_relative_error, False, ""),
            ("delta1", delta1, True, ""),
            ("RMSE", root_mean_squared_error, False, "m"),
        )
        if not relative:
            return tuple(Metric(*metric) for metric in metrics)
        return tuple(Metric(f"{name}, aligned", aligned(compute), up, unit) for name, compute, up, unit in metrics)

    def constants(self, values: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip(("one value", "one image"), constants(images.stack(values)), strict=True))

    def label_sources(self, model: str | None) -> tuple[str, ...]:
        return ("rgb",)

    def labeller(self, source: Modality, model: str | None, **options: Any) -> DepthLabeller:
        """Depth of pictures; `model` is a depth model's Hub name or folder. Options: `DepthOptions`."""
        if model is None:
            raise model_needed(self.name, "a depth model", "depth-anything/Depth-Anything-V2-Metric-Indoor-Small-hf")
        labeller = DepthLabeller(model, label_options(DepthOptions, options, target=self.name))
        if labeller.output == "inverse" and self.settings.normalisation == "log":
            raise ValueError(
                f"{model} predicts relative depth, {self.name} is metric; set normalisation: per_image, or take a "
                f"model that predicts metres"
            )
        return labeller

    def example_samples(self, n: int, seed: int) -> list[dict[str, bytes]]:
        samples = []
        for index, regions in enumerate(images.example_regions(n, seed)):
            distances = np.random.default_rng([seed, index, 2]).uniform(1, 4, 4)
            depth = np.where(regions == 0, np.linspace(8, 2, regions.shape[0])[:, None], distances[regions])
            depth[:3, :3] = np.nan  # a corner without measurement
            samples.append(self.write(depth.astype(np.float32)))
        return samples


def _mark(known: np.ndarray, *, counts: bool) -> float | None:
    """The number that means no measurement: the only negative one, or the largest, often and far from all others."""
    if not known.size:
        return None
    low, top = float(known.min()), float(known.max())
    if low < 0:
        return low if (known[known < 0] == low).all() else None
    rest = known[known < top]
    far = rest.size and rest.max() < top * (0.9 if counts and top == 65535 else 0.1)
    return top if far and known.size - rest.size >= max(2, known.size / 10_000) else None


def _measured(depth: np.ndarray) -> np.ndarray:
    """NaN where nothing was measured."""
    known = np.isfinite(depth) & (depth > 0)
    if not known.any():
        raise SampleError("no pixel holds a depth: all are 0, NaN or infinite")
    return np.where(known, depth, np.float32(np.nan))

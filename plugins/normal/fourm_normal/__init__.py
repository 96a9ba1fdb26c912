"""Surface normals in the camera's frame: x right, y up, z towards the viewer.

Files: 8-bit RGB PNG, round((n + 1) * 127.5) a component, (0, 0, 0) or transparent = no normal. Value: float32
(H, W, 3), unit vectors, NaN where there is none. Array: float32 (3, H, W), the same vectors, NaN where there is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from fourm_normal.labeller import NormalLabeller, NormalOptions
from fourm_normal.metrics import constants, geodesic_median, mean_angle, median_angle, share_within
from fourm_plugins import FeatureMap, Metric, Modality, SampleError, View, images, inputs
from fourm_plugins.arrays import as_float32
from fourm_plugins.bases import GridModality
from fourm_plugins.labelling import label_options
from fourm_plugins.recognition import LOOKED, Glimpse, Recognised, contents, glimpse, median_size, picture_size, usable

_SHORTEST = 0.5  # length below which a stored vector has no direction
_ROUNDING = 0.02  # how much the length of a given vector may differ from 1
_CLOSE = 11.25  # degrees


class NormalSettings(images.TokenSettings):
    source: str = "normal"


class Normal(GridModality):
    Settings = NormalSettings
    claims = frozenset({"directions"})

    folders = ("surface",)
    extensions = ("png",)
    accepts = "unit vectors, float32 (H, W, 3), NaN where there are none"
    loss: ClassVar = {"mse": 1.0, "cosine": 1.0}  # cosine alone would leave the length free
    published_prefix = "tok_normal"
    licence = "Apache-2.0"
    description = "unit surface normals in the camera's frame"

    @classmethod
    def recognise(cls, samples: Sequence[Mapping[str, bytes]]) -> Recognised | None:
        """Colour pictures whose pixels are vectors of length 1, unlike the colours of scenes."""
        files = contents(samples, cls.extensions)
        shares = usable(files[:LOOKED], lambda content: _unit_share(glimpse(content)))
        if not shares or (share := float(np.median(shares))) < 0.8:
            return None
        what = f"unit vectors in {share:.0%} of the pixels that are not black"
        return Recognised(0.95, what, size=median_size(map(picture_size, files)))

    def make_array(self) -> FeatureMap:
        height, width = self.settings.size
        return FeatureMap(channels=3, height=height, width=width, gaps=True)

    def read(self, files: Mapping[str, bytes]) -> np.ndarray:
        return self.from_picture(images.decode_picture(images.only_file(files, self.extensions)[1]))

    def from_picture(self, picture: Image.Image) -> np.ndarray:
        if picture.mode not in ("RGB", "RGBA"):
            raise SampleError(f"normals need a picture with three channels of 8 bits, this one is {picture.mode}")
        stored = np.asarray(images.upright(picture))
        return _vectors(stored if stored.shape[-1] == 3 else np.where(stored[..., 3:] > 0, stored[..., :3], 0))

    def from_array(self, array: np.ndarray) -> np.ndarray:
        """Unit vectors, floats (H, W, 3), or uint8 as stored. Zero and NaN mean "no normal"."""
        array = inputs.channels_last(array, (3,), self.accepted_inputs())
        if array.dtype == np.uint8:
            return _vectors(array)
        if array.dtype.kind != "f":
            raise self.refusal(array)
        vectors = as_float32(array)
        length = _length(*_planes(vectors))[..., None]
        known = np.isfinite(length) & (length > 0)
        if (wrong := known & (abs(length - 1) > _ROUNDING)).any():
            row, column, _ = np.argwhere(wrong)[0]
            raise self.refusal(array, f"length {length[row, column, 0]:.3g} at row {row}, column {column}")
        return _known(np.where(known, vectors, np.float32(np.nan)))

    def write(self, value: np.ndarray) -> dict[str, bytes]:
        known = np.isfinite(value).all(-1, keepdims=True)
        return {"png": images.encode_png(np.where(known, np.rint((value + 1) * 127.5), 0).astype(np.uint8))}

    def augment(self, value: np.ndarray, view: View) -> np.ndarray:
        """A mirrored scene has mirrored normals: x changes sign."""
        seen = super().augment(value, view)
        return seen * np.array([-1, 1, 1], np.float32) if view.flip else seen

    def normalise(self, value: np.ndarray) -> np.ndarray:
        if value.dtype.kind != "f":
            value = self.from_array(value)
        return np.ascontiguousarray(_known(value).transpose(2, 0, 1), np.float32)

    def denormalise(self, array: np.ndarray | str) -> np.ndarray:
        """Vectors scaled to unit length; a zero vector faces the viewer."""
        assert isinstance(array, np.ndarray)
        vectors = array.transpose(1, 2, 0).astype(np.float32)
        length = np.linalg.norm(vectors, axis=-1, keepdims=True)
        return np.where(length < 1e-6, np.array([0, 0, 1], np.float32), vectors / np.maximum(length, 1e-6))

    def render(self, value: np.ndarray) -> Image.Image:
        known = np.isfinite(value).all(-1, keepdims=True)
        return Image.fromarray(np.where(known, np.rint((value + 1) * 127.5), images.NOTHING).astype(np.uint8))

    def reduce(self, values: Sequence[np.ndarray], how: str) -> np.ndarray:
        """The direction of the mean vector, or that of least mean angle."""
        vectors = np.stack(values).astype(np.float32)
        if how == "mean":
            return self.denormalise(np.nansum(vectors, axis=0).transpose(2, 0, 1))
        rows, height, width, _ = vectors.shape
        return geodesic_median(vectors.reshape(rows, height * width, 3)).reshape(height, width, 3)

    def spread(self, values: Sequence[np.ndarray]) -> np.ndarray:
        """The mean angle to the mean direction, degrees (H, W)."""
        centre = self.reduce(values, "mean").astype(np.float64)
        chords = np.stack([np.linalg.norm(value - centre, axis=-1) for value in values])
        return np.degrees(2 * np.arcsin(np.minimum(chords / 2, 1))).mean(0)

    def metrics(self) -> tuple[Metric, ...]:
        return (
            Metric("mean angle", mean_angle, False, "degrees"),
            Metric("median angle", median_angle, False, "degrees"),
            Metric(f"within {_CLOSE}°", share_within(_CLOSE), True),
        )

    def constants(self, values: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip(("one value", "one image"), constants(images.stack(values)), strict=True))

    def label_sources(self, model: str | None) -> tuple[str, ...]:
        return ("depth",)

    def labeller(self, source: Modality, model: str | None, **options: Any) -> NormalLabeller:
        """Normals of metric depth maps, by geometry; there is no model. Options: `NormalOptions`."""
        if model is not None:
            raise ValueError(f"{self.name} is made from depth by geometry; it takes no model")
        if getattr(source.settings, "normalisation", None) == "per_image":
            raise ValueError(
                f"{self.name} needs metric depth: the shape of a surface does not follow from the relative depth of "
                f"{source.name}"
            )
        return NormalLabeller(label_options(NormalOptions, options, target=self.name))

    def example_samples(self, n: int, seed: int) -> list[dict[str, bytes]]:
        samples = []
        for index, regions in enumerate(images.example_regions(n, seed)):
            directions = np.random.default_rng([seed, index, 3]).normal(size=(4, 3))
            directions[:, 2] = abs(directions[:, 2]) + 0.5
            directions[0] = 0, 1, 0.5
            vectors = (directions / np.linalg.norm(directions, axis=1, keepdims=True))[regions]
            vectors[:3, :3] = np.nan  # a corner without normals
            samples.append(self.write(vectors.astype(np.float32)))
        return samples


def _unit_share(seen: Glimpse | None) -> float | None:
    """Share of a picture's non-black pixels that hold vectors of length 1."""
    if seen is None or seen.mode not in ("RGB", "RGBA"):
        return None
    pixels = seen.middle.reshape(-1, seen.middle.shape[-1])
    pixels = pixels[:, :3][pixels[:, :3].any(-1) & (pixels[:, -1] > 0 if seen.mode == "RGBA" else True)]
    if not len(pixels) or len(np.unique(pixels[:: 1 + len(pixels) // 4096], axis=0)) < 2:
        return None if len(pixels) else 0.0
    length = np.linalg.norm(pixels.astype(np.float32) / 127.5 - 1, axis=-1)
    return float((abs(length - 1) < 0.1).mean())


def _vectors(stored: np.ndarray) -> np.ndarray:
    """float32 (H, W, 3) of uint8 (H, W, 3). Plane by plane: along an axis of three numbers NumPy takes ten times as
    long."""
    red, green, blue = _planes(stored)
    planes = [plane.astype(np.float32) / 127.5 - 1 for plane in (red, green, blue)]
    length = _length(*planes)
    known = ((red | green | blue) > 0) & (length > _SHORTEST)
    length[~known] = np.nan
    return _known(np.stack([plane / length for plane in planes], axis=-1))


def _length(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """The very numbers of `np.linalg.norm`."""
    return np.asarray(np.sqrt(x * x + y * y + z * z))


def _planes(array: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return array[..., 0], array[..., 1], array[..., 2]


def _known(vectors: np.ndarray) -> np.ndarray:
    if not np.isfinite(vectors).any():
        raise SampleError("no pixel holds a normal")
    return vectors

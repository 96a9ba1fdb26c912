"""PictureGrid: colour pictures.

Files: PNG, JPEG or WebP. Value: uint8 (H, W, 3). Array: float32 (3, H, W) in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from fourm_plugins import decoding, images, inputs
from fourm_plugins.bases.grid import GridModality
from fourm_plugins.modality import Metric
from fourm_plugins.notes import note
from fourm_plugins.recognition import LOOKED, Recognised, contents, glimpse, median_size, picture_size, usable
from fourm_plugins.spec import FeatureMap
from fourm_plugins.view import View

#: Maps of ids have at most this many of them, and at least this fraction of equal neighbours.
MOST_IDS, FLAT = 64, 0.8


class PictureGrid(GridModality):
    """Pictures as tokens or, with `Settings = images.PictureSettings`, as patches of pixels (input only)."""

    extensions = ("png", "jpg", "jpeg", "webp")
    accepts = "a picture, uint8 (H, W, 3) of 0 to 255"
    claims = frozenset({"no_directions"})  # colours

    @classmethod
    def recognise(cls, samples: Sequence[Mapping[str, bytes]]) -> Recognised | None:
        """Pictures whose colours or greys vary from pixel to pixel; with less confidence, those of a few flat colours,
        and those of 16 bits, which depth maps may be."""
        files = contents(samples, cls.extensions)
        seen = usable(files[:LOOKED], glimpse)
        if not seen:
            return None
        colour = sum(g.mode not in ("1", "L", "P") and not g.mode.startswith(("I", "F")) for g in seen) / len(seen)
        flat = float(np.median([g.flat for g in seen]))
        if flat > 0.9:
            score, what = (0.5 if colour > 0.5 else 0.3), "pictures of a few flat colours"
        elif colour > 0.2 or not seen[0].mode.startswith(("I", "F")):
            score, what = (0.9, "colour pictures") if colour > 0.2 else (0.6, "grey pictures")
        else:
            if sum(decoding.is_dark(g.middle) for g in seen if g.mode.startswith("I")) > len(seen) / 2:
                return None  # millimetres, or ids
            score, what = 0.3, "grey pictures of 16 bits, of which 8 are used"
        return Recognised(score, what, size=median_size(map(picture_size, files)))

    def make_array(self) -> FeatureMap:
        height, width = self.settings.size
        return FeatureMap(channels=3, height=height, width=width)

    def read(self, files: Mapping[str, bytes]) -> np.ndarray:
        return self.from_picture(images.decode_picture(images.only_file(files, self.extensions)[1]))

    def from_picture(self, picture: Image.Image) -> np.ndarray:
        picture = images.upright(picture)
        if picture.mode in ("L", "P") and (ids := _few_ids(picture)):
            note(f"{ids}: it looks like a map of ids, and is used as a picture; give a map as the modality that it is")
        return images.as_rgb(picture)

    def from_array(self, array: np.ndarray) -> np.ndarray:
        """uint8 (H, W, 3); also grey, (H, W) or (H, W, 1), and with transparency, (H, W, 4); channels first if the last
        axis does not fit. uint16 ranges to 65535, as in a 16-bit file, and floats from 0 to 1."""
        array = array[..., None] if array.ndim == 2 else array
        array = inputs.channels_last(array, (1, 2, 3, 4), self.accepted_inputs())
        if array.dtype.kind == "f":
            if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
                raise self.refusal(array, f"floats are 0 to 1, these are {array.min():g} to {array.max():g}")
            array = np.rint(array * 255).astype(np.uint8)
        elif array.dtype == np.uint16:
            if decoding.is_dark(array):
                raise self.refusal(array, f"16 bits count to 65535, this picture to {array.max()}; {decoding.DARK}")
            array = (array >> 8).astype(np.uint8)
        elif array.dtype != np.uint8:
            raise self.refusal(array)
        array = np.ascontiguousarray(array)
        if array.shape[2] == 3:
            return array
        return images.as_rgb(Image.fromarray(array.squeeze(2) if array.shape[2] == 1 else array))

    def write(self, value: np.ndarray) -> dict[str, bytes]:
        return {"png": images.encode_png(value)}

    def augment(self, value: np.ndarray, view: View) -> np.ndarray:
        return images.view_picture(value, view, self.settings.size)

    def normalise(self, value: np.ndarray) -> np.ndarray:
        return np.asarray(value.transpose(2, 0, 1).astype(np.float32) / 127.5 - 1)

    def denormalise(self, array: np.ndarray | str) -> np.ndarray:
        assert isinstance(array, np.ndarray)
        return np.asarray(np.rint(np.clip((array + 1) / 2, 0, 1) * 255).transpose(1, 2, 0), np.uint8)

    def render(self, value: np.ndarray) -> Image.Image:
        return Image.fromarray(np.ascontiguousarray(value))

    def metrics(self) -> tuple[Metric, ...]:
        return Metric("PSNR", psnr, True, "dB"), Metric("mean absolute error", mean_absolute_error, False, "of 255")

    def constants(self, values: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """The mean colour everywhere, and the mean picture; these minimise the squared error, and so maximise the
        PSNR."""
        total = np.zeros(images.common_shape(values))
        for value in values:
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


def _few_ids(picture: Image.Image) -> str:
    """A description of a grey or palette picture that rather looks like ids of classes or objects (at most `MOST_IDS`
    small numbers in a few flat regions); "" for any other."""
    numbers = np.asarray(picture)
    used = int(numbers.max())
    if not 0 < used < MOST_IDS or numbers.shape[1] < 2 or float(np.mean(numbers[:, 1:] == numbers[:, :-1])) < FLAT:
        return ""
    if picture.mode == "P":
        return f"a palette of which the first {used + 1} colours are used"
    return f"grey of 0 to {used}"


def psnr(predictions: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> float:
    """Peak signal-to-noise ratio in dB, from the mean squared error over all pixels of all pictures; at most 100."""
    errors = [np.mean((p.astype(np.float64) - t) ** 2) for p, t in zip(predictions, truths, strict=True)]
    return float(min(100.0, 10 * np.log10(255**2 / max(np.mean(errors), 1e-12))))


def mean_absolute_error(predictions: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> float:
    """Mean absolute difference, in levels of [0, 255]."""
    return float(np.mean([np.mean(abs(p.astype(np.float64) - t)) for p, t in zip(predictions, truths, strict=True)]))

"""Semantic class maps.

Files: PNG with one channel of class ids; one id may mean "no class" (`ignore`). Value and array: int64 (H, W), -1 where
a pixel has no class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from PIL import Image
from pydantic import Field, model_validator

from fourm_plugins import ClassMap, Metric, Modality, ModalitySpec, SampleError, TokenizerRecipe, View, images

_EXTENSIONS = ("png",)


class SemSegSettings(images.TokenSettings):
    small: ClassVar[Mapping[str, Any]] = {**images.TokenSettings.small, "image_size": 16, "num_classes": 6}

    source: str = "semseg"
    codebook_size: int = 4096
    #: Names of the classes, in the order of their ids; they set `num_classes`.
    classes: tuple[str, ...] = ()
    #: The published models' number, where neither this nor `classes` is given.
    num_classes: int = Field(default=134, ge=2, le=65535)
    #: Id that means "no class".
    ignore: int | None = Field(default=255, ge=0, le=65535)

    @model_validator(mode="before")
    @classmethod
    def _count(cls, data: dict) -> dict:
        if isinstance(data, dict) and data.get("classes"):
            data = dict(data)
            given = data.setdefault("num_classes", len(data["classes"]))
            if given != len(data["classes"]):
                raise ValueError(
                    f"num_classes is {given} but {len(data['classes'])} classes are named; give one of the two"
                )
        return data

    @model_validator(mode="after")
    def _apart(self) -> SemSegSettings:
        if self.ignore is not None and self.ignore < self.num_classes:
            raise ValueError(
                f"ignore {self.ignore} is one of the {self.num_classes} classes; choose an id beyond them, or null"
            )
        return self


class SemSeg(Modality[np.ndarray]):
    Settings = SemSegSettings
    claims = frozenset({"exact_files"})

    def make_spec(self) -> ModalitySpec:
        height, width = self.settings.size
        return ModalitySpec(
            name=self.name,
            layout=self.settings.grid(),
            array=ClassMap(classes=self.settings.num_classes, height=height, width=width),
            token_space=self.settings.token_space(self.name),
            tokenizer=TokenizerRecipe(
                kind="vqvae", settings={"loss": {"cross_entropy": 1.0}, **self.settings.tokenizer}
            ),
            source=self.settings.source,
            extensions=_EXTENSIONS,
            expected_decoding=False,
            published_name=self.settings.published("tok_semseg"),
            licence="Apache-2.0",
            description="semantic classes",
        )

    def read(self, files: Mapping[str, bytes]) -> np.ndarray:
        ids = images.decode_map(images.only_file(files, _EXTENSIONS)[1]).astype(np.int64)
        if self.settings.ignore is not None:
            ids[ids == self.settings.ignore] = -1
        if ids.max() >= self.settings.num_classes:
            row, column = np.argwhere(ids >= self.settings.num_classes)[0]
            raise SampleError(
                f"class id {ids[row, column]} at row {row}, column {column}; "
                f"{self.name} has {self.settings.num_classes} classes and ignores {self.settings.ignore}"
            )
        if ids.max() < 0:
            raise SampleError("no pixel has a class")
        return ids

    def write(self, value: np.ndarray) -> dict[str, bytes]:
        stored = np.where(value < 0, self.settings.ignore or 0, value)
        return {"png": images.encode_png(stored.astype(np.uint8 if stored.max() < 256 else np.uint16))}

    def aspect(self, value: np.ndarray) -> float:
        return value.shape[1] / value.shape[0]

    def augment(self, value: np.ndarray, view: View) -> np.ndarray:
        return images.view_map(value, view, self.settings.size)

    def normalise(self, value: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(value, np.int64)

    def denormalise(self, array: np.ndarray | str) -> np.ndarray:
        assert isinstance(array, np.ndarray)
        return array.astype(np.int64)

    def render(self, value: np.ndarray) -> Image.Image:
        colours = np.concatenate([images.palette(self.settings.num_classes), np.array([images.NOTHING], np.uint8)])
        return Image.fromarray(colours[value])  # -1 is the last row

    def metrics(self) -> tuple[Metric, ...]:
        return (
            Metric("mIoU", lambda p, t: mean_iou(confusion(p, t, self.settings.num_classes)), True),
            Metric("pixel accuracy", lambda p, t: accuracy(confusion(p, t, self.settings.num_classes)), True),
        )

    def constants(self, values: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """The most frequent class, and the most frequent class of each pixel: of highest accuracy."""
        height, width = images.stack(values[:1]).shape[1:]
        rows, columns = np.mgrid[:height, :width]
        counts = np.zeros((self.settings.num_classes, height, width), np.int64)
        for value_HW in values:
            if value_HW.shape != (height, width):
                images.stack([values[0], value_HW])  # raises: they differ in size
            counts[np.maximum(value_HW, 0), rows, columns] += value_HW >= 0
        value = int(counts.sum((1, 2)).argmax())
        image = np.where(counts.any(0), counts.argmax(0), value)
        return {"one value": np.full(image.shape, value, np.int64), "one image": image.astype(np.int64)}

    def example_samples(self, n: int, seed: int) -> list[dict[str, bytes]]:
        samples = []
        for index, regions in enumerate(images.example_regions(n, seed)):
            kinds = np.random.default_rng([seed, index, 4]).integers(0, self.settings.num_classes, 4)
            kinds[0] = 0
            value = kinds[regions].astype(np.int64)
            if self.settings.ignore is not None:
                value[:3, :3] = -1  # a corner without a class
            samples.append(self.write(value))
        return samples


def confusion(predictions: Sequence[np.ndarray], truths: Sequence[np.ndarray], classes: int) -> np.ndarray:
    """int64 (classes, classes + 1): pixels of each true class (row) by predicted class, the last column for none.
    Pixels without a true class are left out."""
    total = np.zeros((classes, classes + 1), np.int64)
    for p, t in zip(predictions, truths, strict=True):
        known = t >= 0
        predicted = np.where(p[known] < 0, classes, p[known])
        total += np.bincount(t[known] * (classes + 1) + predicted, minlength=total.size).reshape(total.shape)
    return total


def mean_iou(counts: np.ndarray) -> float:
    """Mean over the classes that occur in the truth of intersection over union, each over all pictures together."""
    right, true, predicted = np.diagonal(counts), counts.sum(1), counts[:, :-1].sum(0)
    present = true > 0
    return float(np.mean(right[present] / (true + predicted - right)[present]))


def accuracy(counts: np.ndarray) -> float:
    """Share of pixels whose class is right."""
    return float(np.diagonal(counts).sum() / counts.sum())

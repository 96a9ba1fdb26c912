"""ClassGrid: maps of classes.

Files: PNG with one channel of class ids; one id may mean "no class" (`ignore`). Value and array: int64 (H, W), -1 where
a pixel has no class.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any, ClassVar

import numpy as np
from PIL import Image
from pydantic import BaseModel, Field, model_validator

from fourm_plugins import images, inputs
from fourm_plugins.bases.grid import GridModality
from fourm_plugins.bases.regions import filled, moved_region
from fourm_plugins.counting import counted
from fourm_plugins.errors import SampleError
from fourm_plugins.legend import Key
from fourm_plugins.modality import Metric
from fourm_plugins.recognition import LOOKED, Glimpse, Recognised, contents, glimpse, median_size, usable
from fourm_plugins.spec import ClassMap

#: Maximum number of different ids for a map of classes.
_MOST_IDS = 1024


class ClassSettings(images.TokenSettings):
    """A subclass or the config must set `classes` or `num_classes`."""

    small: ClassVar[Mapping[str, Any]] = {**images.TokenSettings.small, "image_size": 16}

    #: Names of the classes, in the order of their ids; sets `num_classes`.
    classes: tuple[str, ...] = ()
    num_classes: int = Field(ge=2, le=65535)
    #: Id that means "no class" in files.
    ignore: int | None = Field(default=255, ge=0, le=65535)
    #: The id in files of class 0, 1, …, such as [0, 255] of masks; sets `num_classes`. null: classes are stored as they
    #: are.
    file_ids: tuple[Annotated[int, Field(ge=0, le=65535)], ...] | None = None

    @model_validator(mode="before")
    @classmethod
    def _count(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        data, classes = dict(data), data.get("classes", cls.model_fields["classes"].default)
        for many, listed in ((classes, "named"), (data.get("file_ids"), "listed in file_ids")):
            number = len(many) if isinstance(many, list | tuple) else 0
            if number and (given := data.setdefault("num_classes", number)) != number:
                raise ValueError(
                    f"num_classes is {given} but {counted(number, 'class is', 'classes are')} {listed}; give "
                    f"one of the two"
                )
        return data

    @model_validator(mode="after")
    def _apart(self) -> ClassSettings:
        ids = range(self.num_classes) if self.file_ids is None else self.file_ids
        if self.ignore is not None and self.ignore in ids:
            raise ValueError(f"ignore {self.ignore} is one of the {self.num_classes} classes; choose another, or null")
        if len(set(ids)) < len(ids):
            raise ValueError("file_ids names an id twice; it lists the id of each class")
        return self


class ClassGrid(GridModality):
    """A map of classes. Codes are never averaged: the most likely one is decoded."""

    Settings: ClassVar[type[BaseModel]] = ClassSettings
    extensions = ("png",)
    documents = ("classes.json",)
    accepts = "class ids, integers (H, W)"
    loss: ClassVar[Mapping[str, float]] = {"cross_entropy": 1.0}
    expected_decoding = False

    @classmethod
    def recognise(cls, samples: Sequence[Mapping[str, bytes]]) -> Recognised | None:
        """One-channel maps in which most neighbouring pixels are equal; the ids determine `num_classes` and
        `ignore`."""
        files = contents(samples, cls.extensions)
        seen = usable(files[:LOOKED], lambda c: g if (g := glimpse(c)) and _one_channel(g) else None)
        if not seen:
            return None
        if (flat := float(np.median([g.flat for g in seen]))) < 0.8:
            return Recognised(0.1, "neighbouring pixels differ too often for ids of classes")
        maps = usable(files, lambda content: _ids_of(images.decode_map(content)))
        if not maps:
            return None
        files_with = Counter(i for ids_of_map, _ in maps for i in ids_of_map)
        ids, size = sorted(files_with), median_size(size for _, size in maps)
        once = sum(n == 1 for n in files_with.values())
        if ids[-1] >= _MOST_IDS and len(maps) > 7 and 2 * once > len(ids) > 16:
            what = "most ids occur in one file alone, so they count objects; write the class of each pixel"
            return Recognised(0.1, f"{what}, such as id // 1000 of Cityscapes", size=size)
        if len(ids) > _MOST_IDS:
            return None
        settings = _settings_for(ids, len(maps))
        named = cls.Settings.model_fields["classes"].default
        if named and settings.pop("num_classes")[0] > len(named):
            return None
        score = 0.9 if flat >= 0.9 and not seen[0].mode.startswith("I") else 0.6
        listed = f", {', '.join(map(str, ids))}" if _sparse(ids) and len(ids) < 6 else ""
        return Recognised(score, f"maps of {len(ids)} class ids{listed}", settings, size)

    @classmethod
    def settings_from_document(cls, name: str, content: bytes) -> Mapping[str, Any]:
        """Names of the classes: a list, {id: name} or {name: id}. An id of 255 or 65535 far from all others means "no
        class"."""
        try:
            names = _names_of(json.loads(content))
        except (ValueError, RecursionError):
            names = {}
        if len(names) < 2 or min(names) < 0 or max(names) > 65535:
            raise ValueError("no names of classes; write a list of them, or {id: name}")
        void, kept = _void(sorted(names))
        if _sparse(kept):
            settings: dict[str, Any] = {"classes": [names[i] for i in kept], "file_ids": kept}
        else:
            settings = {"classes": [names.get(i, f"class {i}") for i in range(kept[-1] + 1)]}
        settings["num_classes"] = len(settings["classes"])
        if void is not None or kept[-1] >= 255:
            settings["ignore"] = void
        return settings

    def spread(self, values: Sequence[np.ndarray]) -> np.ndarray:
        """NaN if fewer than two values have a class."""
        return np.where((np.stack(values) >= 0).sum(0) > 1, super().spread(values), np.nan)

    def make_array(self) -> ClassMap:
        height, width = self.settings.size
        return ClassMap(classes=self.settings.num_classes, height=height, width=width)

    def read(self, files: Mapping[str, bytes]) -> np.ndarray:
        return self.from_picture(images.decode_picture(images.only_file(files, self.extensions)[1]))

    def from_picture(self, picture: Image.Image) -> np.ndarray:
        ids, s = images.as_channel(images.upright(picture)), self.settings
        if s.file_ids is None:
            return self.from_array(ids)
        table = np.full(65536, -2)
        table[list(s.file_ids)] = np.arange(s.num_classes)
        if s.ignore is not None:
            table[s.ignore] = -1
        if (classes := table[ids]).min() < -1:
            row, column = np.argwhere(classes < -1)[0]
            listed = ", ".join(map(str, s.file_ids[:20])) + ", …" * (len(s.file_ids) > 20)
            raise SampleError(
                f"class id {ids[row, column]} at row {row}, column {column} is not one of file_ids ({listed})"
            )
        return self.from_array(classes)

    def from_array(self, array: np.ndarray) -> np.ndarray:
        """(H, W) of any integer type: class indices, even if files use other ids (`file_ids`); `ignore` and -1 mean "no
        class"."""
        array = inputs.one_channel(array, self.accepted_inputs()) if array.ndim != 3 or 1 in array.shape else array
        if array.ndim == 3 or array.dtype.kind == "f":
            raise self.refusal(array, "ids are integers, one a pixel (.argmax of scores, .astype(int) of numbers)")
        ids = self._ids(array)
        if ids.max() < 0:
            raise SampleError("no pixel has a class")
        return ids

    def _ids(self, array: np.ndarray) -> np.ndarray:
        """int64 class ids from integers; -1 means "no class", as `ignore` does in files."""
        s, ids = self.settings, array.astype(np.int64)
        void = s.ignore if s.file_ids is None else None
        if void is not None:
            ids[ids == void] = -1
        if ids.max() >= s.num_classes or ids.min() < -1:
            row, column = np.argwhere((ids >= s.num_classes) | (ids < -1))[0]
            none = "-1" if void is None else f"{void} or -1"
            raise SampleError(
                f"class id {ids[row, column]} at row {row}, column {column}; ids are 0 to {s.num_classes - 1}, "
                f"and {none} for no class"
            )
        return ids

    def write(self, value: np.ndarray) -> dict[str, bytes]:
        """Raises `SampleError` for pixels without a class if `ignore` is null."""
        s = self.settings
        if s.ignore is None and value.min() < 0:
            raise SampleError("some pixels have no class, which no id of the files stands for; set ignore")
        ids = value if s.file_ids is None else np.array(s.file_ids)[value]
        stored = np.where(value < 0, s.ignore or 0, ids)
        return {"png": images.encode_png(stored.astype(np.uint8 if stored.max() < 256 else np.uint16))}

    def normalise(self, value: np.ndarray) -> np.ndarray:
        if value.dtype.kind not in "iu":
            raise self.refusal(value, "ids are integers")
        return self._ids(np.ascontiguousarray(value))

    def denormalise(self, array: np.ndarray | str) -> np.ndarray:
        assert isinstance(array, np.ndarray)
        return array.astype(np.int64)

    def render(self, value: np.ndarray) -> Image.Image:
        colours = np.concatenate([images.palette(self.settings.num_classes), np.array([images.NOTHING], np.uint8)])
        return Image.fromarray(colours[value])  # -1 is the last row

    def legend(self, value: np.ndarray) -> Key:
        """The classes that occur, largest area first, and "no class" last."""
        ids, counts = np.unique(value, return_counts=True)
        order = sorted(zip(counts.tolist(), ids.tolist()), key=lambda pair: (pair[1] < 0, -pair[0], pair[1]))
        colours = images.palette(self.settings.num_classes).tolist()
        return Key(
            tuple((tuple(colours[i]), self._named(i)) if i >= 0 else (images.NOTHING, "no class") for _, i in order)
        )

    def parts(self, value: np.ndarray) -> dict[str, float]:
        """For each class that occurs: "wall.x" and "wall.y", the centre of its region as fractions of width and height,
        and "wall.size", initially 1."""
        height, width = value.shape
        parts = dict[str, float]()
        for i in np.unique(value[value >= 0]).tolist():
            rows, columns = np.nonzero(value == i)
            name = self._named(i)
            parts |= {f"{name}.x": float(columns.mean() + 0.5) / width, f"{name}.y": float(rows.mean() + 0.5) / height}
            parts[f"{name}.size"] = 1.0
        return parts

    def with_part(self, value: np.ndarray, part: str, number: float) -> np.ndarray:
        """Move the region of a class, or scale it about its centre. Uncovered pixels get the nearest surrounding class;
        covered ones are overwritten."""
        now, (name, _, which) = self.parts(value), part.rpartition(".")
        if part not in now:
            raise SampleError(f"no {part!r} in it; it has {', '.join(now)}")
        if which == "size" and not 0 < number <= 100:
            raise SampleError(f"{part}: {number:g} is not a size; 1 is as it is, 0.5 half as large")
        region = value == next(i for i in np.unique(value).tolist() if i >= 0 and self._named(i) == name)
        if region.all():
            raise SampleError(f"{name} covers all of it; nothing else could be seen")
        height, width = value.shape
        middle = now[f"{name}.y"] * height, now[f"{name}.x"] * width
        change = number - now[part]
        by = change * height if which == "y" else 0.0, change * width if which == "x" else 0.0
        moved = moved_region(region, middle, by, number if which == "size" else 1.0)
        if not moved.any():
            raise SampleError(f"{part}: at {number:g} nothing of it is left in the picture")
        return np.where(moved, value[region][0], filled(value, region))

    def _named(self, i: int) -> str:
        names = self.settings.classes
        return names[i] if i < len(names) else f"class {i}"

    def class_names(self) -> tuple[str, ...]:
        return tuple(self.settings.classes)

    def metrics(self) -> tuple[Metric, ...]:
        return (
            Metric("mIoU", lambda p, t: mean_iou(confusion(p, t, self.settings.num_classes)), True),
            Metric("pixel accuracy", lambda p, t: accuracy(confusion(p, t, self.settings.num_classes)), True),
        )

    def constants(self, values: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """The most frequent class, and the most frequent class of each pixel: they have the highest accuracy."""
        height, width = images.common_shape(values)
        rows, columns = np.mgrid[:height, :width]
        counts = np.zeros((self.settings.num_classes, height, width), np.int64)
        for value_HW in values:
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


def _names_of(document: Any) -> dict[int, str]:
    """Id -> name; {} if there are none. Keys that are not ids, such as comments, are ignored."""
    if isinstance(document, list) and all(isinstance(name, str) for name in document):
        return dict(enumerate(document))
    if not isinstance(document, dict):
        return {}
    if document and all(isinstance(i, int) and not isinstance(i, bool) for i in document.values()):
        return {i: str(name) for name, i in document.items()}
    return {int(i): name for i, name in document.items() if i.isdecimal() and isinstance(name, str)}


def _ids_of(array: np.ndarray) -> tuple[frozenset[int], tuple[int, int]]:
    """The distinct ids of a map, and its (height, width)."""
    return frozenset(np.flatnonzero(np.bincount(array.ravel())).tolist()), array.shape


def _settings_for(ids: Sequence[int], files: int) -> dict[str, tuple[Any, str]]:
    """`num_classes` or `file_ids`, and `ignore`, for sorted ids."""
    void, kept = _void(ids)
    last, seen = max(kept[-1], 1), f"in {counted(files, 'file')} looked at"
    settings: dict[str, tuple[Any, str]] = {}
    if _sparse(kept):
        why = f"ids {seen}, of {counted(len(kept), 'class', 'classes')} 0 to {len(kept) - 1}"
        settings["file_ids"] = (list(kept), f"{why}; files with others are left out")
        settings["num_classes"] = (len(kept), "as many")
    else:
        settings["num_classes"] = (last + 1, f"ids up to {last} {seen}; files with a larger one are left out")
    if void is not None:
        settings["ignore"] = (void, "this id means: no class here")
    elif last >= 255:
        settings["ignore"] = (None, "every id is a class")
    return settings


def _void(ids: Sequence[int]) -> tuple[int | None, Sequence[int]]:
    """Split sorted ids into the one that means "no class", and the others. It is a type's maximum, 255 or 65535, far
    from at least two other ids that are closer together: the 255 of a mask, or of grey levels, is a class."""
    top, others = ids[-1], ids[:-1]
    if top not in (255, 65535) or len(others) < 2:
        return None, ids
    widest = max(b - a for a, b in pairwise(others))
    return (top, others) if top - others[-1] > 4 * widest else (None, ids)


def _sparse(ids: Sequence[int]) -> bool:
    """Whether most ids up to the largest are unused, so that making all of them classes would be wasteful."""
    return 1 < len(ids) <= 64 and 4 * len(ids) < ids[-1]


def _one_channel(seen: Glimpse) -> bool:
    return seen.middle.ndim == 2 or (seen.mode == "RGB" and bool((seen.middle == seen.middle[..., :1]).all()))


def confusion(predictions: Sequence[np.ndarray], truths: Sequence[np.ndarray], classes: int) -> np.ndarray:
    """Confusion matrix, int64 (classes, classes + 1): number of pixels by true class (row) and predicted class; the
    last column is for pixels without a prediction. Pixels without a true class are ignored."""
    total = np.zeros((classes, classes + 1), np.int64)
    for p, t in zip(predictions, truths, strict=True):
        known = t >= 0
        predicted = np.where(p[known] < 0, classes, p[known])
        total += np.bincount(t[known] * (classes + 1) + predicted, minlength=total.size).reshape(total.shape)
    return total


def mean_iou(counts: np.ndarray) -> float:
    """Intersection over union per class, over all pictures together; mean over the classes that occur in the truth."""
    right, true, predicted = np.diagonal(counts), counts.sum(1), counts[:, :-1].sum(0)
    present = true > 0
    return float(np.mean(right[present] / (true + predicted - right)[present]))


def accuracy(counts: np.ndarray) -> float:
    """Fraction of pixels with the right class."""
    return float(np.diagonal(counts).sum() / counts.sum())

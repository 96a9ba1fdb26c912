"""Objects of pictures, read from COCO's instances JSON.

In: a file, the names of samples. Out: name -> `Objects`, and the categories ordered by id.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fourm_engine.data.raw.tables import check_coco_ids
from fourm_engine.data.splits import samples_of
from fourm_engine.transfer.labels import is_coco, read_json
from fourm_plugins.counting import counted


@dataclass(frozen=True, eq=False)
class Objects:
    """n objects of a picture of (height, width) pixels: `boxes` (n, 4) as x0, y0, x1, y1 in [0, 1], indices of their
    `categories` (n,), `areas` (n,) as fractions of the boxes, and `crowds` (n,), whether each is a crowd."""

    size: tuple[int, int]
    boxes: np.ndarray
    categories: np.ndarray
    areas: np.ndarray
    crowds: np.ndarray


@dataclass(frozen=True, eq=False)
class ListedObjects:
    """n objects of a picture of unknown size: `boxes` (n, 4) as x0, y0, x1, y1 in pixels, or if `relative` in [0, 1];
    the others as in `Objects`."""

    boxes: np.ndarray
    categories: np.ndarray
    areas: np.ndarray
    crowds: np.ndarray
    relative: bool = False

    @classmethod
    def of(cls, table: np.ndarray, *, relative: bool = False) -> ListedObjects:
        """From rows of x0, y0, x1, y1, category, share of the area, and whether a crowd."""
        table = table.reshape(-1, 7)
        return cls(table[:, :4], table[:, 4].astype(np.int64), table[:, 5], table[:, 6].astype(np.bool_), relative)

    def within(self, height: int, width: int) -> Objects:
        """The objects of a picture of this size: boxes that reach out of it are cut, those outside dropped."""
        boxes = np.clip(self.boxes / ([1] * 4 if self.relative else [width, height] * 2), 0, 1)
        kept = (boxes[:, 2:] > boxes[:, :2]).all(1)
        return Objects((height, width), boxes[kept], self.categories[kept], self.areas[kept], self.crowds[kept])


def area_share(area: Any, of_box: float) -> float:
    """The area of an object as a fraction of its box's; 1 if either is unknown."""
    area = float(area or 0)
    return min(area / of_box, 1.0) if area > 0 and of_box > 0 else 1.0


def read_coco(path: Path, names: Collection[str]) -> tuple[dict[str, Objects], tuple[str, ...]]:
    """The objects of the `names` listed in the file, including pictures without objects. Empty boxes are dropped.
    Raises ValueError, naming the file, if it is invalid or lists none of the names."""
    document = read_json(path)
    if not is_coco(document):
        raise ValueError(f"{path}: not COCO's JSON of instances: no images, annotations and categories")
    check_coco_ids(path, document)
    at = "categories"
    try:
        categories = sorted((int(category["id"]), str(category["name"])) for category in document["categories"])
        numbers = {number: i for i, (number, _) in enumerate(categories)}
        at = "images"
        rows: dict[Any, list[list[float]]] = {image["id"]: [] for image in document["images"]}
        for i, annotation in enumerate(document["annotations"]):
            at = f"annotations[{i}]"
            x, y, width, height = (float(number) for number in annotation["bbox"])
            if not all(map(math.isfinite, (x, y, width, height))):
                raise ValueError("the numbers of bbox must be finite")
            if width > 0 and height > 0:
                share = area_share(annotation.get("area"), width * height)
                crowd = float(bool(annotation.get("iscrowd")))
                category = numbers[annotation["category_id"]]
                rows[annotation["image_id"]].append([x, y, x + width, y + height, category, share, crowd])
        at = "images"
        listed = {str(image["file_name"]): _objects(image, rows[image["id"]]) for image in document["images"]}
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        why = f"missing or unknown: {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{path}: not COCO's JSON of instances: {at}: {why}") from None
    if not categories:
        raise ValueError(f"{path}: names no categories, which are what is learned; add them")
    objects, files = dict[str, Objects](), dict[str, str]()
    for file, name in samples_of(list(listed), names).items():
        if (other := files.setdefault(name, file)) != file:
            raise ValueError(f"{path}: {other!r} and {file!r} are both the sample {name!r}; leave one of them out")
        objects[name] = listed[file]
    if not objects:
        raise ValueError(
            f"{path}: none of the {counted(len(listed), 'picture')} there, such as {next(iter(listed), '')!r}, is a "
            f"sample, such as {next(iter(names), '')!r}"
        )
    return objects, tuple(name for _, name in categories)


def _objects(image: dict[str, Any], rows: list[list[float]]) -> Objects:
    height, width = int(image["height"]), int(image["width"])
    if height <= 0 or width <= 0:
        raise ValueError(f"a picture of {height} x {width} pixels")
    return ListedObjects.of(np.array(rows, np.float64)).within(height, width)

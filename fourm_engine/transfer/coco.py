"""Boxes of samples from COCO's JSON of instances.

In: a file, the names of samples. Out: name -> `Objects`, and the categories in the order of their ids.
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
    """n objects of a picture of (height, width) pixels: `boxes` (n, 4) x0, y0, x1, y1 in [0, 1], the indices of their
    `categories` (n,), their `areas` (n,) as shares of their boxes, and which are `crowds` (n,)."""

    size: tuple[int, int]
    boxes: np.ndarray
    categories: np.ndarray
    areas: np.ndarray
    crowds: np.ndarray


def read_coco(path: Path, names: Collection[str]) -> tuple[dict[str, Objects], tuple[str, ...]]:
    """The objects of those of `names` that the file lists, also of pictures without any; boxes without extent are left
    out. Raises ValueError naming the file for what cannot be read, and where it lists none of them."""
    document = read_json(path)
    if not is_coco(document):
        raise ValueError(f"{path}: not COCO's JSON of instances: no images, annotations and categories")
    check_coco_ids(path, document)
    at = "categories"
    try:
        categories = sorted((int(one["id"]), str(one["name"])) for one in document["categories"])
        numbers = {number: i for i, (number, _) in enumerate(categories)}
        at = "images"
        rows: dict[Any, list[list[float]]] = {one["id"]: [] for one in document["images"]}
        for i, one in enumerate(document["annotations"]):
            at = f"annotations[{i}]"
            x, y, width, height = (float(number) for number in one["bbox"])
            if not all(map(math.isfinite, (x, y, width, height))):
                raise ValueError("the numbers of bbox must be finite")
            if width > 0 and height > 0:
                area = float(one.get("area") or 0)
                share = min(area / (width * height), 1.0) if area > 0 else 1.0
                crowd = float(bool(one.get("iscrowd")))
                rows[one["image_id"]].append(
                    [x, y, x + width, y + height, numbers[one["category_id"]], share, crowd],
                )
        at = "images"
        listed = {str(one["file_name"]): _objects(one, rows[one["id"]]) for one in document["images"]}
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        why = f"missing or unknown: {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{path}: not COCO's JSON of instances: {at}: {why}") from None
    if not categories:
        raise ValueError(f"{path}: names no categories, which are what is learned; add them")
    found, files = dict[str, Objects](), dict[str, str]()
    for file, name in samples_of(list(listed), names).items():
        if (other := files.setdefault(name, file)) != file:
            raise ValueError(f"{path}: {other!r} and {file!r} are both the sample {name!r}; leave one of them out")
        found[name] = listed[file]
    if not found:
        raise ValueError(
            f"{path}: none of the {counted(len(listed), 'picture')} there, such as {next(iter(listed), '')!r}, is a "
            f"sample, such as {next(iter(names), '')!r}"
        )
    return found, tuple(name for _, name in categories)


def _objects(image: dict[str, Any], rows: list[list[float]]) -> Objects:
    height, width = int(image["height"]), int(image["width"])
    if height <= 0 or width <= 0:
        raise ValueError(f"a picture of {height} x {width} pixels")
    table = np.array(rows, np.float64).reshape(-1, 7)
    boxes = np.clip(table[:, :4] / [width, height, width, height], 0, 1)
    there = (boxes[:, 2:] > boxes[:, :2]).all(1)
    table, boxes = table[there], boxes[there]
    return Objects((height, width), boxes, table[:, 4].astype(np.int64), table[:, 5], table[:, 6].astype(np.bool_))

"""Read boxes from a column of objects, as Hugging Face `datasets` have it: {bbox: [[x, y, w, h]], category: [name]}.

In: data that a package opens, the column, the names of samples. Out: name -> `ListedObjects`, and the classes.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from fourm_engine.data.bad_files import BadFile
from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.raw.column_types import LABELS, check_type
from fourm_engine.data.raw.names import shown
from fourm_engine.transfer.coco import ListedObjects, area_share
from fourm_engine.transfer.config import ObjectsColumn
from fourm_engine.transfer.labels import in_order
from fourm_plugins.suggest import did_you_mean

#: Numbers beyond these are no share of a picture, even of an object that reaches out of it.
_SHARES = -1.0, 2.0
#: Pictures with objects whose size is compared with their boxes; how far a box may reach out of one.
_PICTURES, _BEYOND = 16, 0.02


def read_column(
    data: AlignedData, column: ObjectsColumn, names: Collection[str]
) -> tuple[dict[str, ListedObjects], tuple[str, ...]]:
    """The objects of the `names` that have a value, and the classes: those of the column's type, otherwise those that
    occur in it. Raises ValueError, naming the column, if it has another type, holds a box or class that is none, or has
    a value for none of the names."""
    where = f"{shown(data.root)}, {column}"
    classes = _checked(data.column_type(column.column), column, where)
    values = data.column(column.column)
    listed = {name: list(_rows(value, column, f"{where}: {name!r}")) for name, value in values.items()}
    if not any(name in listed for name in names):
        raise ValueError(f"{where}: none of the samples, such as {next(iter(names), '')!r}, has a value there")
    if classes is None:
        classes = in_order({row[4] for rows in listed.values() for row in rows})
        if not classes:
            raise ValueError(f"{where}: holds no object, and so no class to learn; name another column")
    numbers, objects = {label: i for i, label in enumerate(classes)}, dict[str, ListedObjects]()
    for name in names:
        if name in listed:
            if unknown := [row[4] for row in listed[name] if row[4] not in numbers]:
                raise ValueError(f"{where}: {name!r}: {unknown[0]!r} is no class of the column; correct it")
            table = np.array([[*row[:4], numbers[row[4]], *row[5:]] for row in listed[name]], np.float64)
            objects[name] = ListedObjects.of(table, relative=column.relative)
    boxes = np.concatenate([one.boxes for one in objects.values()])
    if not column.relative and len(boxes) and boxes.max() <= 1:
        raise ValueError(f"{where}: all its boxes lie in [0, 1]; set relative: true")
    return objects, classes


def check_format(objects: Mapping[str, ListedObjects], column: ObjectsColumn, data: AlignedData, picture: str) -> None:
    """Raise ValueError if most boxes of the first pictures reach out of them, as boxes of another format do. `picture`:
    the modality that shows them."""
    inside = np.zeros(0, np.bool_)
    names = (name for name, one in objects.items() if len(one.boxes) and picture in data.has(name))
    for name, _ in zip(names, range(_PICTURES)):
        try:
            height, width = np.shape(data.value(name, picture))[:2]
        except BadFile:
            continue  # told where it is read
        size = np.array([1, 1] if column.relative else [width, height])
        inside = np.append(inside, (objects[name].boxes[:, 2:] <= size * (1 + _BEYOND)).all(1))
    if 2 * (out := int((~inside).sum())) > len(inside):
        remedy = "; set boxes: xyxy if they are left, top, right, bottom" if column.boxes == "xywh" else ""
        raise ValueError(
            f"{shown(data.root)}, {column}: of the first {len(inside)} boxes, {out} reach out of their pictures{remedy}"
            f", or give the pictures in the size that the boxes are of"
        )


def _checked(kind: Any, column: ObjectsColumn, where: str) -> tuple[str, ...] | None:
    """The classes of a column's type; None if it does not say."""
    if kind is None:
        return None
    fields = kind[0] if isinstance(kind, list) and kind else kind
    if not isinstance(fields, dict):
        check_type(kind, (), where, "objects with the fields bbox and category")
    types = {}
    for setting in ("bbox", "category"):
        field = getattr(column, setting)
        if field not in fields:
            near = did_you_mean(field, fields)
            raise ValueError(f"{where}: its objects have no field {field!r}; {near} Set {setting}: FIELD")
        types[setting] = [fields[field]] if isinstance(kind, list) else fields[field]
    check_type(types["bbox"], ("[[number]]", "[[integer]]"), f"{where}, {column.bbox}", "four numbers a box")
    labels = [f"[{label}]" for label in LABELS]
    check_type(types["category"], labels, f"{where}, {column.category}", "a class a box")
    label = types["category"][0]
    return label if isinstance(label, tuple) else None


def _rows(
    value: Any, column: ObjectsColumn, where: str
) -> Iterator[tuple[float, float, float, float, str, float, bool]]:
    """(x0, y0, x1, y1, class, share of the area, whether a crowd) of each object that is larger than nothing."""
    for i, fields in enumerate(_objects(value, column, where)):
        box, label = fields[column.bbox], fields[column.category]
        what = f"{where}: box {i}, {box!r:.80}"
        fit = isinstance(box, (list, tuple)) and len(box) == 4 and all(isinstance(x, (int, float)) for x in box)
        if not fit or not all(map(math.isfinite, box)):
            raise ValueError(f"{what}: not four numbers; correct it")
        x, y, width, height = map(float, box)
        if column.boxes == "xyxy":
            width, height = width - x, height - y
        if width < 0 or height < 0:
            remedy = "set boxes: xywh" if column.boxes == "xyxy" else "correct it"
            raise ValueError(f"{what}: as {column.boxes} it ends before it begins; {remedy}")
        if column.relative and not all(_SHARES[0] <= edge <= _SHARES[1] for edge in (x, y, x + width, y + height)):
            raise ValueError(f"{what}: not in [0, 1] of the picture; leave relative out for boxes in pixels")
        if not isinstance(label, (str, int)) or isinstance(label, bool):
            raise ValueError(f"{what}: of class {label!r:.80}, which is none; correct it, or leave the sample out")
        if width > 0 and height > 0:
            share = area_share(fields.get("area"), 0 if column.relative else width * height)
            yield x, y, x + width, y + height, str(label), share, bool(fields.get("iscrowd"))


def _objects(value: Any, column: ObjectsColumn, where: str) -> list[dict[str, Any]]:
    """The objects of a sample, from a list of them, or from fields with a list each."""
    wanted = {column.bbox, column.category}
    if isinstance(value, dict) and wanted <= value.keys():
        fields = {key: one for key, one in value.items() if isinstance(one, list)}
        boxes, labels = (len(fields.get(key, ())) for key in (column.bbox, column.category))
        if boxes != labels:
            raise ValueError(f"{where}: {boxes} in {column.bbox} and {labels} in {column.category}; correct it")
        return [{key: one[i] for key, one in fields.items() if len(one) == boxes} for i in range(boxes)]
    objects = value if isinstance(value, list) else [value]
    for one in objects:
        if not isinstance(one, dict) or not wanted <= one.keys():
            raise ValueError(f"{where}: {one!r:.80} has no {column.bbox} and {column.category}; correct it")
    return objects

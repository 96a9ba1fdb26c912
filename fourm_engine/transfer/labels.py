"""Read labels of samples from their folders, from a file or from a column.

In: names of samples; a file of rows `name,label` (CSV), {name: label or [labels]} (JSON), or COCO's instances JSON; or
{name: value}. Out: name -> its labels.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from fourm_engine.data.raw.names import shown
from fourm_engine.data.raw.tables import check_coco_ids, csv_rows
from fourm_engine.data.splits import samples_of
from fourm_plugins.counting import counted

log = logging.getLogger(__name__)
MAX_BYTES = 1 << 30
MAX_CLASSES = 1 << 20
#: Header rows of tables.
_HEADERS = [[name, label] for name in ("name", "file", "filename", "image", "path") for label in ("label", "class")]

Labels = Mapping[str, tuple[str, ...]]


def of_folders(names: Collection[str]) -> Labels:
    """The first folder of each name, as its label. Raises ValueError if a sample is in no folder."""
    labels = {}
    for name in names:
        folder, inside, _ = name.partition("/")
        if not inside:
            raise ValueError(
                f"sample {name!r} lies in no folder of a class; lay the data out as CLASS/PICTURE (for pictures right "
                f"below the data set, set `source: .` of the input), or name a file of labels (task.labels)"
            )
        labels[name] = (folder,)
    return labels


def of_file(path: Path, names: Collection[str], *, several: bool) -> Labels:
    """The labels of the `names` that the file contains. Raises ValueError, naming the file, if it is invalid, if a
    sample has a second label although `several` is False, and if it labels none of the names."""
    rows = _json(path) if path.suffix.lower() == ".json" else _csv(path)
    by_name: dict[str, tuple[str, ...]] = {}
    for listed, name in samples_of(list(rows), names).items():
        by_name[name] = tuple(dict.fromkeys((*by_name.get(name, ()), *rows[listed])))
    if not by_name:
        raise ValueError(
            f"{path}: none of the {counted(len(rows), 'name')} there, such as {next(iter(rows), '')!r}, is a sample, "
            f"such as {next(iter(names), '')!r}"
        )
    _check_number(by_name, path, several)
    return by_name


def of_column(values: Mapping[str, Any], names: Collection[str], where: str, *, several: bool) -> Labels:
    """The labels of the `names` that have a value: text or an integer, or a list of them. Raises ValueError, starting
    with `where`, for other values, if none of the names has one, and as `of_file`."""
    by_name: dict[str, tuple[str, ...]] = {}
    for name in names:
        if name in values:
            its = _listed(values[name])
            if its is None:
                raise ValueError(f"{where}: {name!r}: expected a label or a list of them, not {values[name]!r:.80}")
            by_name[name] = tuple(dict.fromkeys(its))
    if not by_name:
        raise ValueError(f"{where}: none of the samples, such as {next(iter(names), '')!r}, has a value there")
    _check_number(by_name, where, several)
    return by_name


def _check_number(labels: Labels, where: object, several: bool) -> None:
    """Raise ValueError if a sample has no label, or more than one, unless `several`."""
    double = next((name for name, its in labels.items() if len(its) != 1), None)
    if double is not None and not several:
        its = ", ".join(labels[double]) or "none"
        raise ValueError(f"{where}: {double!r} has {counted(len(labels[double]), 'label')} ({its}); set task.several")


def _listed(value: Any) -> list[str] | None:
    """A label or a list of labels as a list; None for anything else."""
    labels = value if isinstance(value, list) else [value]
    fit = all(isinstance(label, (str, int)) and not isinstance(label, bool) for label in labels)
    return list(map(str, labels)) if fit else None


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"{path}: larger than {MAX_BYTES} bytes; this is no file of labels")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ValueError(f"{path}: labels cannot be read: {why}") from None


def read_json(path: Path) -> Any:
    """The content of a label file. Raises ValueError, naming the file."""
    text = _read(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON: {error}") from None


def is_coco(document: Any) -> bool:
    """Whether the document has the sections of COCO's instances JSON."""
    return isinstance(document, dict) and {"images", "annotations", "categories"} <= document.keys()


def _csv(path: Path) -> dict[str, tuple[str, ...]]:
    rows: dict[str, tuple[str, ...]] = {}
    for number, row in csv_rows(_read(path), path):
        if not row or (number == 1 and [cell.strip().lower() for cell in row[:2]] in _HEADERS):
            continue
        if len(row) != 2 or not row[0].strip():
            raise ValueError(f"{path}:{number}: expected `name,label`, not {','.join(row)!r:.80}")
        name, label = (cell.strip() for cell in row)
        rows[name] = (*rows.get(name, ()), *([label] if label else []))
    return rows


def _json(path: Path) -> dict[str, tuple[str, ...]]:
    document = read_json(path)
    if is_coco(document):
        check_coco_ids(path, document)
        try:
            return _coco(document)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{path}: not COCO's JSON of instances: {type(error).__name__} {error}") from None
    if not isinstance(document, dict):
        raise ValueError(f"{path}: expected {{name: label}}, not a {type(document).__name__}")
    rows = {}
    for name, its in document.items():
        if (labels := _listed(its)) is None:
            raise ValueError(f"{path}: {name!r}: expected a label or a list of them, not {its!r:.80}")
        rows[name] = tuple(labels)
    return rows


def _coco(document: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """File name without extension -> the distinct categories of the picture's instances."""
    names = {category["id"]: str(category["name"]) for category in document["categories"]}
    rows: dict[Any, list[str]] = {image["id"]: [] for image in document["images"]}
    for annotation in document["annotations"]:
        rows[annotation["image_id"]].append(names[annotation["category_id"]])
    files = {image["id"]: str(PurePosixPath(image["file_name"]).with_suffix("")) for image in document["images"]}
    return {files[picture]: tuple(dict.fromkeys(its)) for picture, its in rows.items()}


def classes_of(labels: Labels) -> tuple[str, ...]:
    """All distinct labels, sorted, numbers by value. Raises ValueError for fewer than two."""
    classes = {label for its in labels.values() for label in its}
    if not 2 <= len(classes) <= MAX_CLASSES:
        named = f": {', '.join(sorted(classes)[:3])}" if classes else ""
        raise ValueError(
            f"the training samples have {counted(len(classes), 'class', 'classes')}{named}; two are needed"
        )
    return in_order(classes)


def in_order(classes: Collection[str]) -> tuple[str, ...]:
    """The classes, sorted; numbers by value."""
    numbers = all(label.isdecimal() for label in classes)
    return tuple(sorted(classes, key=lambda label: (int(label) if numbers else 0, label)))


def only_known(labels: Labels, classes: Sequence[str]) -> Labels:
    """The samples whose labels are all among `classes`. Logs the number of others."""
    known = set(classes)
    kept = {name: its for name, its in labels.items() if known.issuperset(its)}
    if others := sorted(labels.keys() - kept.keys()):
        log.warning(
            "%s held out, such as %s, of classes that no training sample has; not measured",
            counted(len(others), "sample is", "samples are"),
            shown(others[0]),
        )
    return kept


def check_known(labels: Labels, classes: Sequence[str], where: str) -> None:
    """Raise ValueError for a label that no training sample has."""
    known = set(classes)
    for name, its in labels.items():
        if unknown := [label for label in its if label not in known]:
            raise ValueError(
                f"{where}: sample {name!r} is of class {unknown[0]!r}, which no training sample has; correct it, or "
                f"leave the sample out"
            )

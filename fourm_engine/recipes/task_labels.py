"""The labels of a task's samples, for `fourm finetune`.

In: a config, its inputs and target, its data. Out: what is learned from the training samples, and what is measured on
the held-out ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.raw.column_types import check_labels
from fourm_engine.data.raw.names import shown
from fourm_engine.modalities import Modalities
from fourm_engine.recipes.task_config import TaskRunConfig
from fourm_engine.transfer.classification import Classification
from fourm_engine.transfer.coco import ListedObjects, Objects, read_coco
from fourm_engine.transfer.config import ClassificationConfig, Column, DetectionConfig, ObjectsColumn
from fourm_engine.transfer.detection import Detection, picture_of
from fourm_engine.transfer.labels import Labels, check_known, classes_of, of_column, of_file, of_folders, only_known
from fourm_engine.transfer.object_columns import check_format, read_column
from fourm_engine.transfer.objective import Objective
from fourm_engine.transfer.task_folder import objective_of
from fourm_plugins.modality import Modality


def objectives_of(
    config: TaskRunConfig, inputs: Modalities, target: Modalities, train: AlignedData, val: AlignedData | None
) -> tuple[Objective, Objective]:
    """The objectives for training and for evaluation, with the labels of their samples."""
    settings = config.task
    if isinstance(settings, DetectionConfig):
        return _detections(settings, picture_of(inputs), train, val)
    if not isinstance(settings, ClassificationConfig):
        objective = objective_of(settings, inputs, target=next(iter(target.values()), None))
        return objective, objective
    labels, classes = dict[str, Labels](), tuple[str, ...]()
    for part, data in (("train", train), ("val", val)):
        if data is None:
            continue
        labelled = settings.labels if part == "train" else settings.val_labels or settings.labels
        labels[part] = _labels(labelled, data, several=settings.several)
        classes = classes or classes_of(labels["train"])
        if part == "val" and isinstance(config.data.held_out, float):  # may hold out every sample of a class
            labels[part] = only_known(labels[part], classes)
        check_known(labels[part], classes, f"data.{part}" if labelled is None else str(labelled))
    return Classification(settings, classes, labels["train"]), Classification(settings, classes, labels.get("val"))


def _labels(labelled: Path | Column | None, data: AlignedData, *, several: bool) -> Labels:
    if labelled is None:
        return of_folders(data.names)
    if isinstance(labelled, Column):
        where = f"{shown(data.root)}, {labelled}"
        check_labels(data.column_type(labelled.column), where)
        return of_column(data.column(labelled.column), data.names, where, several=several)
    return of_file(labelled, data.names, several=several)


def _detections(
    config: DetectionConfig, picture: Modality[Any], train: AlignedData, val: AlignedData | None
) -> tuple[Detection, Detection]:
    listed = config.val_labels or config.labels
    objects, classes = _objects(config.labels, train, picture)
    held_out, others = ({}, classes) if val is None else _objects(listed, val, picture)
    if new := [name for name in others if name not in classes]:
        raise ValueError(f"{listed}: category {new[0]!r} is not one of those in {config.labels}; correct it")
    index = np.array([classes.index(name) for name in others], np.int64)
    held_out = {name: replace(one, categories=index[one.categories]) for name, one in held_out.items()}
    return Detection(config, classes, picture, objects), Detection(config, classes, picture, held_out)


def _objects(
    listed: Path | ObjectsColumn, data: AlignedData, picture: Modality[Any]
) -> tuple[Mapping[str, Objects | ListedObjects], tuple[str, ...]]:
    if isinstance(listed, Path):
        return read_coco(listed, data.names)
    objects, classes = read_column(data, listed, data.names)
    check_format(objects, listed, data, picture.name)
    return objects, classes

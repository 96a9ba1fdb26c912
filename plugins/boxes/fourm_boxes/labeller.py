"""Boxes made from other modalities: by an object detection model of `transformers` from pictures, or by geometry from
class maps, a box around each connected region.

In: pictures uint8 (H, W, 3), or class maps int (H, W) with -1 for none. Out: lists of `Box`, the model's with scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field

from fourm_boxes.box import Box
from fourm_plugins import Labeller, Settings
from fourm_plugins.extras import optional
from fourm_plugins.labelling import NetworkOptions, PictureNetwork, class_targets, same_label


class DetectionOptions(NetworkOptions):
    #: Boxes with a lower score are left out.
    min_score: float = Field(default=0.5, ge=0, le=1)
    #: {class of the model: label of the box, or null to leave it out}; others keep the model's name.
    mapping: dict[str, str | None] = Field(default_factory=dict)


class RegionOptions(Settings):
    #: Regions that cover a smaller share of the picture are skipped.
    min_area: float = Field(default=0.001, ge=0, le=1)
    #: Classes that are not things, such as floor and sky.
    exclude: tuple[str, ...] = ()


class DetectionLabeller(Labeller):
    """`labels` are those that may occur, empty for any; the model's other classes are left out. Raises ValueError if
    none of its classes may occur."""

    def __init__(self, model: str, options: DetectionOptions, *, labels: Sequence[str]) -> None:
        kinds, what = ("AutoModelForObjectDetection",), "an object detection model"
        self._net = PictureNetwork(model, kinds, what=what, install="fourm-boxes[label]", options=options)
        self._min_score = options.min_score
        self._labels = _labels(self._net.config.id2label, options.mapping, labels, model)

    def label(self, values: Sequence[np.ndarray]) -> list[Any]:
        def compute(inputs: dict[str, Any], sizes: list[tuple[int, int]]) -> list[Any]:
            outputs = self._net.network(**inputs)
            detections = self._net.processor.post_process_object_detection(
                outputs, threshold=self._min_score, target_sizes=sizes
            )
            return [self._boxes(found, *size) for found, size in zip(detections, sizes, strict=True)]

        return self._net.run(values, compute)

    def _boxes(self, detections: Mapping[str, Any], height: int, width: int) -> list[Box]:
        boxes = []
        columns = (detections[name].tolist() for name in ("scores", "labels", "boxes"))
        for score, label, corners in zip(*columns, strict=True):
            name = self._labels.get(label)
            x0, y0, x1, y1 = (min(max(x / side, 0.0), 1.0) for x, side in zip(corners, (width, height) * 2))
            if name is not None and x0 < x1 and y0 < y1:
                boxes.append(Box(name, x0, y0, x1, y1, score=score))
        return boxes


class RegionLabeller(Labeller):
    """`classes` names the ids of the class maps."""

    def __init__(self, options: RegionOptions, *, classes: Sequence[str]) -> None:
        if unknown := sorted(set(options.exclude) - set(classes)):
            raise ValueError(f"exclude: no class {unknown[0]!r}; there are {', '.join(classes)}")
        self._options, self._classes = options, classes

    def label(self, values: Sequence[np.ndarray]) -> list[Any]:
        ndimage = optional("scipy.ndimage", what="boxes from class maps need", install="fourm-boxes[label]")
        return [self._boxes(value, ndimage) for value in values]

    def _boxes(self, ids_HW: np.ndarray, ndimage: Any) -> list[Box]:
        if not (isinstance(ids_HW, np.ndarray) and ids_HW.ndim == 2 and ids_HW.dtype.kind in "iu"):
            kind = f"{ids_HW.dtype} {ids_HW.shape}" if isinstance(ids_HW, np.ndarray) else type(ids_HW).__name__
            raise ValueError(f"boxes are made from class maps, int (H, W), not from {kind}")
        height, width = ids_HW.shape
        boxes = []
        for class_id in np.unique(ids_HW[ids_HW >= 0]):
            name = self._classes[class_id]
            if name in self._options.exclude:
                continue
            # Pixels that touch at a corner belong to one region.
            regions, count = ndimage.label(ids_HW == class_id, structure=np.ones((3, 3)))
            sizes = np.bincount(regions.ravel(), minlength=count + 1)[1:]
            for (rows, columns), size in zip(ndimage.find_objects(regions), sizes, strict=True):
                if size >= self._options.min_area * ids_HW.size:
                    x0, x1, y0, y1 = columns.start, columns.stop, rows.start, rows.stop
                    boxes.append(Box(name, x0 / width, y0 / height, x1 / width, y1 / height))
        return boxes


def _labels(
    id2label: Mapping[int, str], mapping: Mapping[str, str | None], labels: Sequence[str], model: str
) -> dict[int, str]:
    """The model's class -> label, for those that may occur."""
    names = [str(name) for name in id2label.values()]
    labels_by_key = {same_label(label): label for label in labels}
    chosen = {}
    for i, target in zip(id2label, class_targets(names, mapping, model), strict=True):
        if target is not None and labels:
            target = labels_by_key.get(same_label(target))
        if target is not None and "=" not in target:
            chosen[i] = target
    if not chosen:
        shown = ", ".join(names[:10])
        raise ValueError(f"no class of {model} is one of the {len(labels)} labels: {shown}, …; give a mapping")
    return chosen

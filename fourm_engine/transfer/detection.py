"""Detection: a box and a class for each object of a picture.

In: samples with their objects. Out: the object assigned to each cell of a pyramid of grids, as in FCOS (arXiv
1904.01355); losses; and COCO's metrics.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.views import SampleViews, view_of
from fourm_engine.masking.pack import Shown
from fourm_engine.train.distributed import gather_json
from fourm_engine.transfer.answers import Detections
from fourm_engine.transfer.coco import ListedObjects, Objects
from fourm_engine.transfer.config import DetectionConfig
from fourm_engine.transfer.objective import Metrics, Objective, Target, of_labels
from fourm_engine.transfer.vision import EXTRA, torchvision
from fourm_plugins.counting import counted as number_of
from fourm_plugins.extras import optional
from fourm_plugins.modality import Modality
from fourm_plugins.spec import Grid

#: A cell detects objects whose centre is within `RADIUS` cell sides, and whose farthest edge is more than `REACH` cell
#: sides away (any distance on the first level), up to the minimum of the next level.
REACH, RADIUS = 4.0, 1.5
#: Minimum visible fraction of an object in a crop; others are ignored in training and metrics.
MIN_VISIBLE = 0.25
#: Detections of a picture: minimum score; maximum number of candidates (cells and classes); maximum IoU of two boxes of
#: a class (non-maximum suppression); maximum number of detections.
MIN_SCORE, CANDIDATES, OVERLAP, MOST = 0.05, 1000, 0.6, 100
METRICS = ("AP", "AP50", "AP75", "AP small", "AP medium", "AP large", "AR1", "AR10", "AR100")


class Detection(Objective):
    """`objects`: sample -> its objects, of `classes`. `picture`: the input that shows them, whose crop applies, and
    whose size as read is that of pictures of unknown size."""

    kind = "detection"
    loss_name = "detection loss"
    monitor = ("AP", True)

    def __init__(
        self,
        config: DetectionConfig,
        classes: Sequence[str],
        picture: Modality[Any],
        objects: Mapping[str, Objects | ListedObjects] | None = None,
    ) -> None:
        self._sizes = dict[str, tuple[int, int]]()
        self.config, self.classes, self.picture, self.objects = config, tuple(classes), picture, objects or {}
        self.outputs, layout = len(self.classes), picture.spec.layout
        assert isinstance(layout, Grid)
        rows, columns = picture.spec.patch
        self.extent = np.array([layout.width * columns, layout.height * rows] * 2, np.float32)
        reach = [0.0, *(REACH * max(rows, columns) / scale for scale in config.scales[1:]), np.inf]
        middles, sides, reaches = [], [], []
        for scale, least, most in zip(config.scales, reach, reach[1:]):
            height, width = (-int(-side * scale // 1) for side in (layout.height, layout.width))
            self.levels = (*self.levels, (height, width))
            side = np.array([columns / scale, rows / scale])
            y, x = np.mgrid[:height, :width] + 0.5
            middles.append(np.stack([x, y], -1).reshape(-1, 2) * side)
            sides.append(np.broadcast_to(side, (height * width, 2)))
            reaches.append(np.broadcast_to([least, most], (height * width, 2)))
        #: For each cell, in pixels: its centre (x, y), its sides, and the range of distances of its objects.
        parts = (np.concatenate(part).astype(np.float32) for part in (middles, sides, reaches))
        self.middles, self.sides, self.reaches = parts

    def describe(self) -> str:
        return number_of(self.outputs, "class", "classes")

    def target(
        self, data: AlignedData, name: str, views: SampleViews, number: int, shown: Mapping[str, Shown]
    ) -> tuple[Target, dict[str, Any]]:
        objects, view = self._objects(data, name), view_of(self.picture.spec, views, number)
        seen = np.array([view.box(*box) for box in objects.boxes.tolist()], np.float64).reshape(-1, 4)
        boxes = seen.clip(0, 1)
        visible = _areas(boxes) / _areas(seen)
        height, width = objects.size
        size = np.array([view.width * width, view.height * height])  # of the crop, in pixels of the file
        counted, seen_at_all = ~objects.crowds & (visible >= MIN_VISIBLE), visible > 0
        truth = {
            "size": size.tolist(),
            "corners": boxes[seen_at_all].tolist(),
            "classes": objects.categories[seen_at_all].tolist(),
            "areas": (_areas(boxes) * size.prod() * objects.areas)[seen_at_all].tolist(),
            "counted": counted[seen_at_all].tolist(),
        }
        object_of, boxes = self._assigned(boxes[counted].astype(np.float32) * self.extent)
        return {"classes": np.append(objects.categories[counted], -1)[object_of], "corners": boxes}, truth

    def _objects(self, data: AlignedData, name: str) -> Objects:
        objects = self.objects[name]
        if isinstance(objects, Objects):
            return objects
        if name not in self._sizes:
            height, width = np.shape(data.value(name, self.picture.name))[:2]
            self._sizes[name] = height, width
        return objects.within(*self._sizes[name])

    def _assigned(self, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The object assigned to each cell, (cells,), -1 for none, and its box, (cells, 4), in pixels: the smallest
        object that contains the cell's centre, near its own centre, with a distance in the level's range."""
        corners = self.middles[:, None] - boxes[:, :2], boxes[:, 2:] - self.middles[:, None]
        inside = np.concatenate(corners, -1)  # (cells, n, 4)
        away = np.abs(self.middles[:, None] - (boxes[:, :2] + boxes[:, 2:]) / 2)
        near = (away < RADIUS * self.sides[:, None]).all(-1) & (inside.min(-1) > 0)
        farthest = inside.max(-1)
        fits = near & (farthest > self.reaches[:, :1]) & (farthest <= self.reaches[:, 1:])
        areas = np.append(_areas(boxes), np.inf)
        areas = np.where(np.pad(fits, [(0, 0), (0, 1)], constant_values=True), areas, np.inf)
        object_of = np.where(fits.any(1), areas.argmin(1), -1)
        return object_of, np.concatenate([boxes, np.zeros((1, 4), np.float32)])[object_of]

    def has_target(self, data: AlignedData, row: int) -> bool:
        objects = self.objects.get(data.names[row])
        return isinstance(objects, Objects) or (objects is not None and self.picture.name in data.has_at(row))

    def count(self, targets: Mapping[str, Tensor]) -> int:
        return int((targets["classes"] >= 0).sum())

    def loss(self, output: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        """The focal loss of the classes over all cells, plus, for cells with an object, 1 - GIoU of its box and the
        cross-entropy of its centre-ness."""
        ops = torchvision("ops", what="detection needs")
        logits, reach, central = output.float().split([self.outputs, 4, 1], -1)
        classes = targets["classes"]
        wanted = logits.new_zeros(*classes.shape, self.outputs + 1).scatter(-1, classes[..., None] + 1, 1.0)[..., 1:]
        focal = ops.sigmoid_focal_loss(logits, wanted, reduction="sum")
        finds = classes >= 0
        middles, sides = (x.expand(*classes.shape, 2)[finds] for x in self._cells(output))
        boxes = targets["corners"][finds]
        overlap = ops.generalized_box_iou_loss(_corners(middles, sides, reach[finds]), boxes, reduction="sum")
        near, far = middles - boxes[:, :2], boxes[:, 2:] - middles
        centrality = (torch.minimum(near, far) / torch.maximum(near, far)).prod(-1).sqrt()
        return focal + overlap + F.binary_cross_entropy_with_logits(central[finds][:, 0], centrality, reduction="sum")

    def _cells(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """The cells' centres and sides, (cells, 2) each."""
        middles, sides = (torch.from_numpy(x).to(like.device, non_blocking=True) for x in (self.middles, self.sides))
        return middles, sides

    def metrics(self) -> Metrics:
        return _Coco(self)

    def identity(self) -> dict[str, Any]:
        return of_labels(self.config, self.classes)

    def answer(self, output: Tensor) -> Detections:
        """The detections from one sample's output (cells, classes + 5), with boxes in [0, 1] of the crop."""
        logits, reach, central = output.float().split([self.outputs, 4, 1], -1)
        scores = (logits.sigmoid() * central.sigmoid()).sqrt()
        best = scores.flatten().topk(min(CANDIDATES, scores.numel()))
        kept = best.indices[best.values > MIN_SCORE]
        cells, classes = kept // self.outputs, kept % self.outputs
        middles, sides = self._cells(output)
        corners = _corners(middles[cells], sides[cells], reach[cells])
        boxes = (corners.cpu().numpy() / self.extent).clip(0, 1)
        labels, values = classes.cpu().numpy(), scores.flatten()[kept].cpu().numpy()
        chosen = _distinct(boxes, labels)[:MOST]
        return Detections(tuple(self.classes[i] for i in labels[chosen]), boxes[chosen], values[chosen])


def picture_of(inputs: Mapping[str, Modality[Any]]) -> Modality[Any]:
    """The first input with a grid in which objects can be detected. Raises ValueError if there is none."""
    for modality in inputs.values():
        if isinstance(modality.spec.layout, Grid) and modality.spec.alignment is not None:
            return modality
    raise ValueError("detection needs an input that is a picture, and there is none; add one to modalities.select")


class _Coco(Metrics):
    """COCO's metrics by `pycocotools`, within the crops, in pixels of the files."""

    def __init__(self, task: Detection) -> None:
        what = "COCO's metrics need"
        self._tools = optional("pycocotools.coco", what=what, install=EXTRA)
        self._evaluation = optional("pycocotools.cocoeval", what=what, install=EXTRA)
        self.task, self._loss, self._count = task, 0.0, 0
        self._samples: list[tuple[dict[str, Any], list[list[float]]]] = []

    def update(self, output: Tensor, targets: Mapping[str, Tensor], truths: Sequence[Any]) -> None:
        self._loss += float(self.task.loss(output, targets))
        self._count += self.task.count(targets)
        index = {name: i for i, name in enumerate(self.task.classes)}
        for row, truth in zip(output, truths, strict=True):
            answer = self.task.answer(row)
            parts = zip(answer.labels, answer.scores.tolist(), answer.boxes.round(5).tolist())
            self._samples.append((truth, [[index[label], score, *box] for label, score, box in parts]))

    def compute(self) -> dict[str, float]:
        parts = gather_json([self._loss, self._count, self._samples])
        loss, count = (sum(part[i] for part in parts) for i in (0, 1))
        truths, answers = list[dict[str, Any]](), list[dict[str, Any]]()
        samples = [sample for part in parts for sample in part[2]]
        for number, (truth, answer) in enumerate(samples, start=1):
            size = truth["size"] * 2
            for box, category, area, counted in zip(
                truth["corners"], truth["classes"], truth["areas"], truth["counted"], strict=True
            ):
                truths.append(_annotation(number, category, box, size) | {"area": area, "iscrowd": int(not counted)})
            for category, score, *box in answer:
                answers.append(_annotation(number, category, box, size) | {"score": score, "iscrowd": 0})
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = self._evaluation.COCOeval(
                *(self._set(len(samples), part) for part in (truths, answers)), "bbox"
            )
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        scores = {name: float(score) for name, score in zip(METRICS, evaluation.stats) if score >= 0}
        return {"AP": float("nan"), **scores, self.task.loss_name: loss / max(count, 1)}

    def _set(self, samples: int, annotations: list[dict[str, Any]]) -> Any:
        coco = self._tools.COCO()
        coco.dataset = {
            "images": [{"id": number} for number in range(1, samples + 1)],
            "categories": [{"id": i, "name": name} for i, name in enumerate(self.task.classes)],
            "annotations": [{**annotation, "id": i} for i, annotation in enumerate(annotations, start=1)],
        }
        coco.createIndex()
        return coco


def _annotation(number: int, category: int, box: Sequence[float], size: Sequence[float]) -> dict[str, Any]:
    x0, y0, x1, y1 = (a * b for a, b in zip(box, size, strict=True))
    corner_and_size = [x0, y0, x1 - x0, y1 - y0]
    return {"image_id": number, "category_id": category, "bbox": corner_and_size, "area": (x1 - x0) * (y1 - y0)}


def _corners(middles: Tensor, sides: Tensor, reach: Tensor) -> Tensor:
    """(…, 4): x0, y0, x1, y1 of boxes, from distances to the left, top, right and bottom in units of a cell's sides."""
    return torch.cat([middles - reach[..., :2] * sides, middles + reach[..., 2:] * sides], -1)


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def _distinct(boxes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Non-maximum suppression within each class. Boxes are given in descending order of score; returns the indices of
    those to keep."""
    kept, left = [], np.arange(len(boxes))
    while len(left):
        first, left = left[0], left[1:]
        kept.append(first)
        both = np.concatenate(
            [np.maximum(boxes[first, :2], boxes[left, :2]), np.minimum(boxes[first, 2:], boxes[left, 2:])], 1
        )
        shared = (both[:, 2:] - both[:, :2]).clip(0).prod(1)
        union = _areas(boxes[first]) + _areas(boxes[left]) - shared
        left = left[(labels[left] != labels[first]) | (shared <= OVERLAP * union)]
    return np.array(kept, np.int64)

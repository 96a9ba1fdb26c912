"""Metrics of boxes: average precision at an IoU of 0.5 (AP50) over all pictures, and pieces of text that are not boxes.

In: a list of `Box` for each picture, predicted and true. Boxes with the higher score are matched first, each to the
free true box it overlaps most. Boxes without a score count as 1, and boxes with equal scores enter the precision-recall
curve together, so that their order does not matter: where none has a score the curve is one point, and its area is
precision x recall.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fourm_boxes.box import Box, Boxed, label_key

Pictures = Sequence[Sequence[Box]]


def average_precision(predictions: Pictures, truths: Pictures, *, overlap: float = 0.5) -> float:
    """Area under the precision-recall curve, ignoring labels; 0 if there is no true box."""
    total = sum(len(boxes) for boxes in truths)
    scored = [hit for p, t in zip(predictions, truths, strict=True) for hit in _match(p, t, overlap)]
    if not total or not scored:
        return 0.0
    scores, hits = (np.array(column, np.float64) for column in zip(*scored, strict=True))
    levels = np.unique(scores)[::-1]
    right = np.array([hits[scores >= level].sum() for level in levels])
    predicted = np.array([(scores >= level).sum() for level in levels])
    recall, precision = right / total, right / predicted
    # The precision at a recall is the best at that recall or above, as in PASCAL VOC and COCO.
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def mean_average_precision(predictions: Pictures, truths: Pictures, *, overlap: float = 0.5) -> float:
    """Mean average precision over the labels that occur in the truth."""
    labels = sorted({label_key(box.label) for boxes in truths for box in boxes})
    each = [average_precision(_only(predictions, x), _only(truths, x), overlap=overlap) for x in labels]
    return float(np.mean(each)) if each else 0.0


def dropped(predictions: Pictures, truths: Pictures) -> float:
    """Mean number of pieces of a prediction's text that were not boxes; 0 for boxes that never were text."""
    counts = [p.dropped if isinstance(p, Boxed) else 0 for p, _ in zip(predictions, truths, strict=True)]
    return float(np.mean(counts)) if counts else 0.0


def _only(pictures: Pictures, key: str) -> list[list[Box]]:
    return [[box for box in boxes if label_key(box.label) == key] for boxes in pictures]


def _match(predicted: Sequence[Box], true: Sequence[Box], overlap: float) -> list[tuple[float, bool]]:
    """(score, right) of each predicted box of one picture."""
    scores = [box.certainty for box in predicted]
    pairs = [(-scores[i], -_iou(a, b), i, j) for i, a in enumerate(predicted) for j, b in enumerate(true)]
    taken_p: set[int] = set()
    taken_t: set[int] = set()
    for _, negative, i, j in sorted(pairs):
        if -negative >= overlap and i not in taken_p and j not in taken_t:
            taken_p.add(i)
            taken_t.add(j)
    return [(score, i in taken_p) for i, score in enumerate(scores)]


def _iou(a: Box, b: Box) -> float:
    width, height = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / (a.area + b.area - width * height)

"""Classification: one class per sample, or several. In: sample names and their labels. Out: targets, cross-entropies,
top-1 and top-5, or the mean average precision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.views import SampleViews
from fourm_engine.masking.pack import Shown
from fourm_engine.transfer.answers import Classes
from fourm_engine.transfer.config import ClassificationConfig
from fourm_engine.transfer.labels import Labels
from fourm_engine.transfer.objective import Metrics, Objective, SumMetrics, Target, of_labels
from fourm_plugins.counting import counted

#: Number of bins of the logits in [-MOST, MOST], for counting scores of several labels.
BINS, MOST = 1024, 16.0
TOP = 5


class Classification(Objective):
    """`labels`: sample -> labels, all among `classes`."""

    kind = "classification"

    def __init__(self, config: ClassificationConfig, classes: Sequence[str], labels: Labels | None = None) -> None:
        self.config, self.classes, self.labels = config, tuple(classes), labels or {}
        self.outputs = len(self.classes)
        self._ids = {label: i for i, label in enumerate(self.classes)}
        self.loss_name = "binary cross-entropy" if config.several else "cross-entropy"
        self.monitor = ("mAP" if config.several else "top-1", True)

    def describe(self) -> str:
        return counted(self.outputs, "class", "classes")

    def target(
        self, data: AlignedData, name: str, views: SampleViews, number: int, shown: Mapping[str, Shown]
    ) -> tuple[Target, None]:
        ids = [self._ids[label] for label in self.labels[name]]
        if not self.config.several:
            return {"label": np.array(ids[0])}, None
        labels = np.zeros(self.outputs, np.float32)
        labels[ids] = 1
        return {"labels": labels}, None

    def has_target(self, data: AlignedData, row: int) -> bool:
        return data.names[row] in self.labels

    def mixed(self, a: Target, b: Target, share: float) -> Target:
        """The target of a mixed sample: a fraction `share` of a, and the rest of b."""
        if self.config.several:
            return {"labels": (share * a["labels"] + (1 - share) * b["labels"]).astype(np.float32)}
        return {"label": a["label"], "other": b["label"], "share": np.array(share, np.float32)}

    def count(self, targets: Mapping[str, Tensor]) -> int:
        return sum(len(tensor) for key, tensor in targets.items() if key in ("label", "labels"))

    def loss(self, output: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        output = output.float()
        if self.config.several:  # a mean over the classes, so that the loss does not scale with their number
            return F.binary_cross_entropy_with_logits(output, targets["labels"], reduction="sum") / self.outputs
        smoothing = self.config.label_smoothing
        if "other" not in targets:
            return F.cross_entropy(output, targets["label"], reduction="sum", label_smoothing=smoothing)
        first, second = (
            F.cross_entropy(output, targets[key], reduction="none", label_smoothing=smoothing)
            for key in ("label", "other")
        )
        return (targets["share"] * first + (1 - targets["share"]) * second).sum()

    def metrics(self) -> Metrics:
        return _MeanPrecision(self) if self.config.several else _Top(self)

    def identity(self) -> dict[str, Any]:
        return of_labels(self.config, self.classes)

    def answer(self, output: Tensor) -> Classes:
        """The prediction from one sample's output (classes,)."""
        several = self.config.several
        shares = output.double().sigmoid() if several else output.double().softmax(0)
        order = shares.argsort(descending=True, stable=True).tolist()
        return Classes({self.classes[i]: float(shares[i]) for i in order}, several)


class _Top(SumMetrics):
    """Top-1 and top-5 accuracy."""

    def __init__(self, task: Classification) -> None:
        self.task, self.sums = task, np.zeros(4)

    def update(self, output: Tensor, targets: Mapping[str, Tensor], truths: Sequence[Any]) -> None:
        label = targets["label"]
        first = output.topk(min(TOP, output.shape[1]), dim=1).indices == label[:, None]
        loss = F.cross_entropy(output.float(), label, reduction="sum")
        self.sums += [len(label), float(first[:, 0].sum()), float(first.sum()), float(loss)]

    def scores(self, sums: np.ndarray) -> dict[str, float]:
        n, first, five, loss = sums.tolist()
        top5 = {f"top-{TOP}": five / n} if self.task.outputs > TOP else {}
        return {"top-1": first / n, **top5, self.task.loss_name: loss / n}


class _MeanPrecision(SumMetrics):
    """Mean average precision over the classes that occur, from histograms of the scores of samples with and without
    each class; the samples of a bin count as ties."""

    def __init__(self, task: Classification) -> None:
        self.task, self.sums = task, np.zeros(2 + 2 * task.outputs * BINS)
        self._counts = self.sums[2:].reshape(2, task.outputs, BINS)  # with the class, without it

    def update(self, output: Tensor, targets: Mapping[str, Tensor], truths: Sequence[Any]) -> None:
        labels = targets["labels"]
        self.sums[:2] += [len(labels), float(self.task.loss(output, targets))]
        bins = ((output.float().clamp(-MOST, MOST) + MOST) / (2 * MOST) * (BINS - 1)).round().long().cpu().numpy()
        column = np.broadcast_to(np.arange(bins.shape[1]), bins.shape)
        np.add.at(self._counts, ((labels.cpu().numpy() < 0.5).astype(int), column, bins), 1)

    def scores(self, sums: np.ndarray) -> dict[str, float]:
        n, loss = sums[:2].tolist()
        with_class, without = sums[2:].reshape(self._counts.shape)[..., ::-1].cumsum(-1)
        occurs = with_class[:, -1] > 0
        if not occurs.any():
            return {"mAP": float("nan"), self.task.loss_name: loss / n}
        right = with_class[occurs]
        precision = right / np.maximum(right + without[occurs], 1)
        gained = np.diff(right, axis=-1, prepend=0) / right[:, -1:]
        return {"mAP": float((gained * precision).sum(-1).mean()), self.task.loss_name: loss / n}

"""Dense tasks: a class per pixel (segmentation) or numbers per pixel (regression); the target is a modality.

In: samples with the target modality, which a plugin reads, crops and normalises along with the inputs. Out: targets,
losses, and metrics: IoU over all held-out pixels, or the target modality's metrics, averaged over samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fourm_engine.data.bad_files import BadFile
from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.views import SampleViews, view_of
from fourm_engine.masking.pack import Shown
from fourm_engine.transfer.answers import DenseMap
from fourm_engine.transfer.config import RegressionConfig, SegmentationConfig
from fourm_engine.transfer.objective import Metrics, Objective, SumMetrics, Target
from fourm_plugins import calls
from fourm_plugins.modality import Modality
from fourm_plugins.spec import ClassMap, FeatureMap


class _Dense(Objective):
    modality: Modality[Any]

    def __init__(self, config: SegmentationConfig | RegressionConfig, modality: Modality[Any]) -> None:
        self.settings: SegmentationConfig | RegressionConfig = config
        self.modality, array = modality, modality.spec.array
        wanted = {"segmentation": "class_map", "regression": "feature_map"}[self.kind]
        if array.kind != wanted:
            kinds = [kind.replace("_", " ") for kind in (array.kind, wanted)]
            raise ValueError(f"task.target: {modality.name!r} is a {kinds[0]}, and {self.kind} learns a {kinds[1]}")
        assert isinstance(array, (ClassMap, FeatureMap))
        self.size = array.height, array.width

    def describe(self) -> str:
        return self.modality.name

    def has_target(self, data: AlignedData, row: int) -> bool:
        return self.modality.name in data.has_at(row)

    def _read(self, data: AlignedData, name: str, views: SampleViews, number: int) -> tuple[np.ndarray, Any]:
        """The target's array and value, both at the target's size."""
        target = self.modality.name
        value = data.augment(name, target, data.value(name, target), view_of(self.modality.spec, views, number))
        return np.asarray(data.normalise(name, target, value)), value

    def identity(self) -> dict[str, Any]:
        config = {f"task.{key}": value for key, value in self.settings.model_dump(mode="json").items()}
        return config | {f"task.target {key}": value for key, value in self.modality.identity().items()}


class Segmentation(_Dense):
    kind = "segmentation"
    loss_name = "cross-entropy"
    monitor = ("mIoU", True)

    def __init__(self, config: SegmentationConfig, modality: Modality[Any]) -> None:
        super().__init__(config, modality)
        array = modality.spec.array
        assert isinstance(array, ClassMap)
        if wrong := [i for i in config.ignore if i >= array.classes]:
            raise ValueError(f"task.ignore: {modality.name!r} has no class {wrong[0]}; it has 0 to {array.classes - 1}")
        #: Id of each output; and output of each id, -1 for ignored ids (the last entry is for id -1).
        self.ids = np.array([i for i in range(array.classes) if i not in set(config.ignore)])
        if len(self.ids) < 2:
            raise ValueError("task.ignore leaves fewer than two classes; shorten it")
        self._outputs = np.full(array.classes + 1, -1)
        self._outputs[self.ids] = np.arange(len(self.ids))
        self.outputs = len(self.ids)

    def target(
        self, data: AlignedData, name: str, views: SampleViews, number: int, shown: Mapping[str, Shown]
    ) -> tuple[Target, None]:
        array, _ = self._read(data, name, views, number)
        classes = self._outputs[array]
        if (classes < 0).all():
            target = self.modality.name
            raise BadFile(data.where(name, target), target, "no pixel that is seen has a class that is learned")
        return {"classes": classes}, None

    def count(self, targets: Mapping[str, Tensor]) -> int:
        return int((targets["classes"] >= 0).sum())

    def loss(self, output: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        return F.cross_entropy(output.float(), targets["classes"], reduction="sum", ignore_index=-1)

    def metrics(self) -> Metrics:
        return _Overlap(self)

    def answer(self, output: Tensor) -> DenseMap:
        """The prediction from one sample's output (classes, H, W)."""
        return DenseMap(self.modality, calls.denormalise(self.modality, self.ids[output.argmax(0).cpu().numpy()]))


class _Overlap(SumMetrics):
    """Mean IoU over the classes in the truth, and pixel accuracy."""

    def __init__(self, task: Segmentation) -> None:
        self.task, self.sums = task, np.zeros(1 + 3 * task.outputs)
        self._pixels = self.sums[1:].reshape(3, task.outputs)  # right, true, predicted

    def update(self, output: Tensor, targets: Mapping[str, Tensor], truths: Sequence[Any]) -> None:
        true, predicted = targets["classes"], output.argmax(1)
        known, n = true >= 0, self.task.outputs
        self.sums[0] += float(self.task.loss(output, targets))
        parts = true[known & (predicted == true)], true[known], predicted[known]
        self._pixels += [torch.bincount(part, minlength=n).cpu().numpy() for part in parts]

    def scores(self, sums: np.ndarray) -> dict[str, float]:
        right, true, predicted = sums[1:].reshape(self._pixels.shape)
        occurs, pixels = true > 0, true.sum()
        iou = right[occurs] / (true + predicted - right)[occurs]
        return {
            "mIoU": float(iou.mean()),
            "pixel accuracy": float(right.sum() / pixels),
            self.task.loss_name: float(sums[0] / pixels),
        }


class Regression(_Dense):
    kind = "regression"

    def __init__(self, config: RegressionConfig, modality: Modality[Any]) -> None:
        super().__init__(config, modality)
        array = modality.spec.array
        assert isinstance(array, FeatureMap)
        self.outputs, self.loss_name = array.channels, config.loss
        #: Metrics of the modality that are defined for a single sample.
        self.sample_metrics = [metric for metric in calls.metrics(modality) if metric.min_samples == 1]
        first = [(metric.name, metric.higher_is_better) for metric in self.sample_metrics[:1]]
        self.monitor = first[0] if first else (self.loss_name, False)
        self._difference = F.l1_loss if config.loss == "l1" else F.mse_loss

    def target(
        self, data: AlignedData, name: str, views: SampleViews, number: int, shown: Mapping[str, Shown]
    ) -> tuple[Target, Any]:
        array, value = self._read(data, name, views, number)
        return {"values": array.astype(np.float32, copy=False)}, value

    def count(self, targets: Mapping[str, Tensor]) -> int:
        return int(targets["values"].isfinite().sum())

    def loss(self, output: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        values = targets["values"]
        known = values.isfinite()
        zero = values.new_zeros(())
        return self._difference(
            torch.where(known, output.float(), zero), torch.where(known, values, zero), reduction="sum"
        )

    def metrics(self) -> Metrics:
        return _TargetMetrics(self)

    def answer(self, output: Tensor) -> DenseMap:
        """The prediction from one sample's output (channels, H, W)."""
        return DenseMap(self.modality, calls.denormalise(self.modality, output.float().cpu().numpy()))


class _TargetMetrics(SumMetrics):
    """The modality's metrics of each sample, in its units, averaged over samples."""

    def __init__(self, task: Regression) -> None:
        self.task, self.sums = task, np.zeros(3 + len(task.sample_metrics))

    def update(self, output: Tensor, targets: Mapping[str, Tensor], truths: Sequence[Any]) -> None:
        self.sums[:3] += [len(output), float(self.task.loss(output, targets)), self.task.count(targets)]
        for row, truth in zip(output, truths, strict=True):
            value = self.task.answer(row).value
            scored = [calls.compute(self.task.modality, m, [value], [truth]) for m in self.task.sample_metrics]
            self.sums[3:] += scored

    def scores(self, sums: np.ndarray) -> dict[str, float]:
        n, loss, pixels, *totals = sums.tolist()
        of_target = {metric.name: total / n for metric, total in zip(self.task.sample_metrics, totals, strict=True)}
        return of_target | {self.task.loss_name: loss / pixels}

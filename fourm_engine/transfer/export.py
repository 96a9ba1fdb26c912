"""A task's head, exported with its encoder. In: a `TaskModel` and the inputs of the file. Out: the head's `output` as a
function of them: logits of a classification (B, classes) or segmentation (B, classes, H, W), normalised values of a
regression (B, C, H, W), embeddings of length 1 (B, width).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fourm_engine.features.encoder import ReadSample
from fourm_engine.features.export import Exportable, patchified
from fourm_engine.transfer.classification import Classification
from fourm_engine.transfer.dense import Segmentation
from fourm_engine.transfer.model import TaskModel
from fourm_engine.transfer.network import TaskNetwork
from fourm_engine.transfer.towers import Towers
from fourm_plugins.head import HeadFeatures
from fourm_plugins.spec import FeatureMap


class ExportableHead(nn.Module):
    """The encoder for fixed inputs and the head, as a module that takes and returns tensors only."""

    def __init__(self, encoder: Exportable, network: TaskNetwork) -> None:
        super().__init__()
        self.encoder, self.head, self.spec = encoder, network.head, network.spec
        self.index = [network.index[spec.name] for spec in encoder.specs]

    def forward(self, *inputs: Tensor) -> tuple[Tensor]:
        _, tokens, valid = self.encoder(*inputs)
        specs, lengths = self.encoder.specs, [spec.layout.num_tokens for spec in self.encoder.specs]
        features = dict(zip([spec.name for spec in specs], tokens.split(lengths, 1), strict=True))
        known = dict(zip(features, valid.split(lengths, 1), strict=True))
        maps, pixels, B = dict[str, Tensor](), dict[str, Tensor](), tokens.shape[0]
        for name, (rows, columns) in self.spec.grids.items():
            shown = features.get(name, tokens.new_zeros(B, rows * columns, self.spec.width))
            maps[name] = shown.unflatten(1, (rows, columns)).permute(0, 3, 1, 2)
            if name in self.spec.pixels:
                pixels[name] = tokens.new_zeros(B, *self.spec.pixels[name])
        for spec, x in zip(specs, inputs, strict=True):
            if spec.name in pixels and isinstance(spec.array, FeatureMap):
                patches = torch.where(known[spec.name][..., None], patchified(x, spec), 0.0)
                (ph, pw), (rows, columns) = spec.patch, self.spec.grids[spec.name]
                parts = patches.unflatten(2, (ph, pw, spec.array.channels)).unflatten(1, (rows, columns))
                pixels[spec.name] = parts.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
        given = HeadFeatures(tokens, valid, maps, pixels)
        if not isinstance(self.head, Towers):
            return (self.head(given),)
        mod = torch.cat([torch.where(known[spec.name], i, -1) for spec, i in zip(specs, self.index, strict=True)], 1)
        return (self.head(given, mod),)


class TaskHead:
    """The head of a task, as an `ExportedHead`."""

    def __init__(self, model: TaskModel) -> None:
        objective = model.objective
        self.model, self.shape = model, ["batch", objective.outputs, *(objective.size or ())]
        self.facts: dict[str, Any] = {"kind": objective.kind, "head": objective.identity()["task.head"]}
        if isinstance(objective, Classification):
            self.facts |= {"classes": list(objective.classes), "several": objective.config.several}
        if isinstance(objective, Segmentation):
            self.facts["class_ids"] = objective.ids.tolist()
        if objective.modality is not None:
            self.facts["target"] = objective.modality.identity()

    def on(self, encoder: Exportable) -> nn.Module:
        return ExportableHead(encoder, self.model.network)

    def output(self, samples: Sequence[ReadSample]) -> np.ndarray:
        return self.model.outputs([sample.shown for sample in samples]).numpy()


def head_of(model: TaskModel, inputs: Collection[str]) -> TaskHead:
    """Raises ValueError for a detection, whose boxes a graph of tensors does not choose, and for inputs that cannot be
    given together."""
    if model.objective.kind == "detection":
        raise ValueError("a detection cannot be exported: its head makes boxes that are yet to be chosen among")
    model.objective.check_inputs({model.reader.instance(name, raw=True).name for name in inputs})
    return TaskHead(model)

"""TaskNetwork: the encoder of a model and a head on it, as one module.

In: the packed inputs of a batch. Out: the head's outputs, (B, outputs), (B, outputs, H, W), or (B, cells, outputs + 5)
for a detector.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from fourm_engine.batch import Patches, TensorFields, Tokens
from fourm_engine.nn.blocks import EncoderBlock
from fourm_engine.nn.transformer import Transformer
from fourm_engine.transfer.objective import Objective
from fourm_engine.transfer.towers import Towers
from fourm_engine.vocabulary import Vocabulary
from fourm_plugins.activation import blame
from fourm_plugins.errors import one_line
from fourm_plugins.head import HeadFeatures, HeadSpec
from fourm_plugins.manager import PluginManager
from fourm_plugins.modality import Modality
from fourm_plugins.spec import FeatureMap, Grid
from fourm_plugins.suggest import check_options


@dataclass
class TaskBatch(TensorFields):
    """Packed inputs of B samples, their targets, and the number of items that losses are summed over (on the host)."""

    tokens: Tokens  # (B, N)
    continuous: dict[str, Patches]
    targets: dict[str, Tensor]
    count: int


class TaskNetwork(nn.Module):
    """`backbone`: an encoder of `inputs`, the vocabulary of the inputs; `spec`: of the head."""

    def __init__(self, backbone: Transformer, inputs: Vocabulary, head: nn.Module, spec: HeadSpec) -> None:
        super().__init__()
        self.backbone, self.head, self.spec = backbone, head, spec
        self.index = {entry.name: entry.index for entry in inputs}

    def forward(self, batch: TaskBatch) -> Tensor:
        values, valid = self.backbone.encode_features(batch.tokens, batch.continuous)
        maps = {name: _map(values, batch.tokens, self.index[name], *grid) for name, grid in self.spec.grids.items()}
        features = HeadFeatures(values, valid, maps, pixels(batch, self.spec))
        return self.head(features, batch.tokens.mod) if isinstance(self.head, Towers) else self.head(features)

    def blocks(self) -> list[nn.Module]:
        return list(self.backbone.encoder)

    def set_drop_path(self, rate: float) -> None:
        """Set stochastic depth: 0 in the first block, rising linearly to `rate` in the last."""
        blocks = self.blocks()
        for i, block in enumerate(blocks):
            assert isinstance(block, EncoderBlock)
            block.drop_path = rate * i / (len(blocks) - 1) if len(blocks) > 1 else rate


def _map(values_BND: Tensor, tokens: Tokens, index: int, height: int, width: int) -> Tensor:
    """The tokens of one modality as a map (B, D, h, w), 0 where there are none. Does not synchronise with the
    device."""
    B, _, D = values_BND.shape
    cells = height * width
    at_BN = torch.where(tokens.mod == index, tokens.pos, cells)  # all other tokens go to a cell that is dropped
    map_BCD = values_BND.new_zeros(B, cells + 1, D).scatter(1, at_BN[..., None].expand(-1, -1, D), values_BND)
    return map_BCD[:, :cells].unflatten(1, (height, width)).permute(0, 3, 1, 2)


def pixels(batch: TaskBatch, spec: HeadSpec) -> dict[str, Tensor]:
    """The packed patches of each continuous input as (B, C, H, W), 0 where there are none."""
    tokens, images = batch.tokens, dict[str, Tensor]()
    for name, (channels, height, width) in spec.pixels.items():
        rows, columns = spec.grids[name]
        size = channels, height // rows, width // columns
        patches = torch.zeros(len(tokens.pos) * rows * columns, prod(size), device=tokens.pos.device)
        if name in batch.continuous:
            given = batch.continuous[name]
            patches[given.row * rows * columns + tokens.pos[given.row, given.slot]] = given.values
        patches_BhwpqC = patches.view(len(tokens.pos), rows, columns, *size[1:], channels)
        images[name] = patches_BhwpqC.permute(0, 5, 1, 3, 2, 4).reshape(-1, channels, height, width)
    return images


def head_spec(
    width: int, inputs: Vocabulary, objective: Objective, modalities: Mapping[str, Modality[Any]]
) -> HeadSpec:
    """`modalities`: the inputs."""
    grids = {e.name: (e.layout.height, e.layout.width) for e in inputs if isinstance(e.layout, Grid)}
    arrays = {name: modalities[name].spec.array for name in grids if modalities[name].spec.continuous}
    sizes = {name: (a.channels, a.height, a.width) for name, a in arrays.items() if isinstance(a, FeatureMap)}
    return HeadSpec(width, objective.outputs, grids, objective.size, objective.levels, sizes)


def make_head(name: str, options: Mapping[str, Any], spec: HeadSpec, host: PluginManager) -> nn.Module:
    """An installed head. Raises ValueError, naming the setting, if it rejects the options or does not return a
    module."""
    make, plugin = host.head(name), host.find("head", name)
    setting = f"task.head={name}{f' with {dict(options)}' if options else ''}"
    try:
        check_options(make, options)
        inspect.signature(make).bind(spec, **options)
        with blame(plugin):
            head = make(spec, **options)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise ValueError(f"{setting}: {one_line(error)}") from error
    if not isinstance(head, nn.Module):
        raise ValueError(f"{setting}: {plugin.value} made a {type(head).__name__}, no torch.nn.Module")
    return head


def check_output(output: Tensor, spec: HeadSpec, samples: int, name: str) -> None:
    """Raise ValueError if the head's output does not have the shape that the task needs."""
    cells = sum(height * width for height, width in spec.levels)
    wanted = (samples, cells, spec.outputs + 5) if cells else (samples, spec.outputs, *(spec.size or ()))
    if not isinstance(output, Tensor) or tuple(output.shape) != wanted:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"task.head={name}: it makes {shape}, and the task needs {wanted}")

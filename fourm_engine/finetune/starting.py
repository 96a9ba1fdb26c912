"""The weights that a fine-tuning starts from, read row by row, so that no process holds more than its share of them.

In: the adapted network before it has memory, the file of the model's weights. Out: a `Planned`, with the numbers that
`take_over` would give, new ones drawn by the seed and their name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from fourm_engine.nn.adapt import POSITIONS, resized
from fourm_engine.nn.initial import Initial
from fourm_engine.nn.transformer import Transformer
from fourm_engine.train.task import Planned


def planned(network: Transformer, weights: Path, known: Mapping[str, tuple[int, ...]], *, seed: int) -> Planned:
    """`known`: the shapes of what the file holds, which was checked."""
    initial = network.initial()

    @torch.no_grad()
    def fill(name: str, part: Tensor, first: int, total: int) -> None:
        layer, parametrized, rest = name.partition(".parametrizations.")
        attribute, _, what = rest.partition(".")
        if parametrized and what.endswith("down"):
            Initial("gaussian", part.shape[1] ** -0.5).fill(part, name, seed=seed, first=first, total=total)
        elif parametrized and what.endswith("up"):
            part.zero_()
        else:
            name = f"{layer}.{attribute}" if parametrized else name
            rows = known[name][0] if name in known else 0
            if rows != total and name.startswith(POSITIONS):
                part.copy_(resized(_read(weights, name, 0, rows), total)[first : first + len(part)])
                return
            if rows < total:
                initial[name].fill(part, name, seed=seed, first=first, total=total)
            if (end := min(first + len(part), rows)) > first:
                part[: end - first].copy_(_read(weights, name, first, end))

    return Planned(network, fill, network.tabulate)


def _read(weights: Path, name: str, first: int, end: int) -> Tensor:
    """Rows of a tensor of a file, which is closed again: pages of it that were read count as memory."""
    with safe_open(weights, framework="pt") as file:
        return file.get_slice(name)[first:end].clone()

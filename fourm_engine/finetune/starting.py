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

from fourm_engine.nn.adapt import POSITIONS, ends_branch, resized
from fourm_engine.nn.initial import BLOCK, Initial
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
                whole = torch.empty(rows, *part.shape[1:])
                _read(whole, weights, name, 0)
                part.copy_(resized(whole, total)[first : first + len(part)])
                return
            if name not in known and ends_branch(name):
                part.zero_()
            elif rows < total:
                initial[name].fill(part, name, seed=seed, first=first, total=total)
            if (end := min(first + len(part), rows)) > first:
                _read(part[: end - first], weights, name, first)

    return Planned(network, fill, network.tabulate)


def _read(part: Tensor, weights: Path, name: str, first: int) -> None:
    """Fill `part` with rows of a tensor of a file, from `first` on, a few at a time. The file is closed again: pages of
    it that were read count as memory."""
    rows = max(1, BLOCK // max(1, part[:1].numel()))
    with safe_open(weights, framework="pt") as file:
        stored = file.get_slice(name)
        for begin in range(0, len(part), rows):
            end = min(begin + rows, len(part))
            part[begin:end].copy_(stored[first + begin : first + end])

"""The initial weights of a run, read row by row, so that no process holds more than its share of them.

In: the network of the run with new parts and adapters, on the meta device; a reader of a trained model's weights. Out:
a `MetaModel` with the same values as from `copy_weights`; new weights are drawn by seed and name.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fourm_engine.nn.adapt import KNOWN, POSITIONS, SCALED, resized, starts_at_zero
from fourm_engine.nn.init import Initial
from fourm_engine.nn.transformer import Transformer
from fourm_engine.train.task import MetaModel
from fourm_engine.weights import BLOCK, Read


def warm_start(network: Transformer, read: Read, known: Mapping[str, tuple[int, ...]], *, seed: int) -> MetaModel:
    """`known`: the shapes of the weights that `read` reads; the vocabulary of `network` begins with theirs. New
    embeddings have the root mean square of the known ones."""
    initial, scales = network.initial(), dict[str, float]()
    # If only the new rows of a table are trained, the known ones are a separate parameter.
    frozen = {name.removesuffix(KNOWN): len(p) for name, p in network.named_parameters() if name.endswith(KNOWN)}

    def drawn(name: str) -> Initial:
        if name not in SCALED or not known[name][0]:
            return initial[name]
        if name not in scales:
            scales[name] = _root_mean_square(read, name, known[name])
        return Initial("gaussian", scales[name])

    @torch.no_grad()
    def fill(name: str, part: Tensor, first: int, total: int) -> None:
        layer, parametrized, rest = name.partition(".parametrizations.")
        attribute, _, what = rest.partition(".")
        if parametrized and what.endswith("down"):
            Initial("gaussian", part.shape[1] ** -0.5).fill(part, name, seed=seed, first=first, total=total)
            return
        if parametrized and what.endswith("up"):
            part.zero_()
            return
        name = f"{layer}.{attribute}" if parametrized else name
        if what == "original" and (before := frozen.get(f"{layer}.parametrizations.{attribute}.0")):
            first, total = first + before, total + before
        rows = known[name][0] if name in known else 0
        if rows not in (0, total) and name.startswith(POSITIONS):
            whole = torch.empty(rows, *part.shape[1:])
            read(whole, name, 0)
            part.copy_(resized(whole, total)[first : first + len(part)])
            return
        if name not in known and starts_at_zero(name, known):
            part.zero_()
            return
        end = max(min(first + len(part), rows), first)
        if end > first:
            read(part[: end - first], name, first)
        if end < first + len(part):
            drawn(name).fill(part[end - first :], name, seed=seed, first=end, total=total)

    return MetaModel(network, fill, network.init_buffers)


def materialise(meta: MetaModel) -> torch.nn.Module:
    """The network with its initial weights, unsharded, on the CPU."""
    network = meta.model.to_empty(device="cpu")
    for name, parameter in network.named_parameters():
        meta.fill(name, parameter.detach(), 0, len(parameter))
    meta.init_buffers()
    return network


def _root_mean_square(read: Read, name: str, shape: tuple[int, ...]) -> float:
    step, total = max(1, BLOCK // shape[1]), 0.0
    for first in range(0, shape[0], step):
        part = torch.empty(min(step, shape[0] - first), *shape[1:])
        read(part, name, first)
        total += float(part.double().square().sum())
    return (total / (shape[0] * shape[1])) ** 0.5

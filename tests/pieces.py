"""A network on the meta device, each parameter of which is filled in pieces, as by the processes of a sharded run."""

from __future__ import annotations

from torch import nn

from fourm_engine.train.task import MetaModel


def in_pieces(meta: MetaModel, pieces: int) -> nn.Module:
    network = meta.model
    network.to_empty(device="cpu")
    for name, parameter in network.named_parameters():
        first = 0
        for part in parameter.detach().chunk(pieces):
            meta.fill(name, part, first, len(parameter))
            first += len(part)
    meta.init_buffers()
    return network

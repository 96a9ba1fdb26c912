"""A planned network, each parameter of which is filled in so many pieces, as by the processes of a sharded run."""

from __future__ import annotations

from torch import nn

from fourm_engine.train.task import Planned


def in_pieces(plan: Planned, pieces: int) -> nn.Module:
    network = plan.model
    network.to_empty(device="cpu")
    for name, parameter in network.named_parameters():
        first = 0
        for part in parameter.detach().chunk(pieces):
            plan.fill(name, part, first, len(parameter))
            first += len(part)
    plan.tabulate()
    return network

"""Removes parts of a module, for example to keep only a network's encoder."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import TypeVar

from torch import nn

from fourm_engine.nn.transformer import Transformer

M = TypeVar("M", bound=nn.Module)


def without(module: M, names: Collection[str]) -> M:
    """`module` without some of its parts; the remaining ones are the same objects."""
    other = copy.copy(module)
    for kind in ("_modules", "_parameters"):
        other.__dict__[kind] = {name: part for name, part in module.__dict__[kind].items() if name not in names}
    return other


def encoder_of(network: Transformer) -> Transformer:
    """`network` without the parts of the decoder."""
    alone = without(network, {"context_proj", "decoder", "decoder_norm", "heads"})
    alone.embedding = without(network.embedding, {"decoder_table", "decoder_positions", "mask_token"})
    return alone

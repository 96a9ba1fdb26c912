"""The encoder of a trained model as the backbone of a task: its inputs' rows alone, frozen or adapted as configured.

In: an opened `Source`, the names of the inputs. Out: the encoder with its weights, and a vocabulary of the inputs.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from fourm_engine.finetune.config import FinetuneConfig
from fourm_engine.finetune.learning import adapt
from fourm_engine.finetune.source import Source
from fourm_engine.nn.adapt import plain_state
from fourm_engine.nn.config import ModelConfig
from fourm_engine.nn.transformer import Transformer
from fourm_engine.vocabulary import Entry, Vocabulary

M = TypeVar("M", bound=nn.Module)
_DECODER = {"context_proj", "decoder", "decoder_norm", "heads"}
_OF_DECODER = {"decoder_table", "mask_token"}  # in the embedding


def inputs_of(vocabulary: Vocabulary, names: Sequence[str]) -> Vocabulary:
    """The vocabulary of some modalities alone, in the same order."""
    entries, start = list[Entry](), 0
    for entry in vocabulary:
        if entry.name in names:
            entries.append(replace(entry, index=len(entries), start=start, stop=start + entry.size))
            start += entry.size
    return Vocabulary(entries)


def encoder_alone(config: ModelConfig, vocabulary: Vocabulary) -> Transformer:
    """A `Transformer` without the parts that only a decoder needs, on the meta device."""
    with torch.device("meta"):
        network = Transformer(config.model_copy(update={"compile": False}), vocabulary)
    alone = _without(network, _DECODER)
    alone.embedding = _without(network.embedding, _OF_DECODER)
    return alone


def filled(network: Transformer, weights: dict[str, Tensor]) -> Transformer:
    """`network`, which is on the meta device, on the CPU with these weights."""
    network.to_empty(device="cpu")
    network.tabulate()
    network.load_state_dict(weights)
    return network


def open_backbone(source: Source, inputs: Vocabulary, settings: FinetuneConfig) -> Transformer:
    """The encoder with the source's weights; what `settings` freezes is frozen, its adapters are there. Raises
    ValueError, naming the setting, for a name that no parameter of the encoder has."""
    with torch.device("meta"):
        whole = Transformer(source.model_config.model_copy(update={"compile": False}), source.vocabulary)
    whole.to_empty(device="cpu")
    whole.tabulate()
    source.take_over(whole)
    network = encoder_alone(source.model_config, inputs)
    state, known = whole.state_dict(), source.vocabulary
    weights = {name: state[name] for name in network.state_dict()}
    rows = [slice(known[e.name].start, known[e.name].stop) for e in inputs]
    weights["embedding.encoder_table"] = torch.cat([state["embedding.encoder_table"][one] for one in rows])
    index = [known[e.name].index for e in inputs]
    weights["embedding.modality"] = state["embedding.modality"][index]
    filled(network, {name: tensor.clone() for name, tensor in weights.items()})
    adapt(network, settings, source.model_config)
    return network


def plain_weights(
    config: ModelConfig, inputs: Vocabulary, settings: FinetuneConfig, state: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The state of an ordinary encoder from that of `open_backbone`'s, adapters merged."""
    network = encoder_alone(config, inputs)
    adapt(network, settings, config)
    network.to_empty(device="cpu").load_state_dict(state)
    return plain_state(network)


def _without(module: M, names: Collection[str]) -> M:
    """`module` without some of its parts; the others are the same objects."""
    other = copy.copy(module)
    for kind in ("_modules", "_parameters"):
        other.__dict__[kind] = {name: part for name, part in module.__dict__[kind].items() if name not in names}
    return other

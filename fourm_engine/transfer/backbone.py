"""The encoder of a trained model as the backbone of a task, reduced to its inputs and frozen or adapted as configured.

In: the shape and the weights of an encoder, a vocabulary of its inputs. Out: the network below the head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fourm_engine.finetune.config import FinetuneConfig
from fourm_engine.finetune.trainable import adapt
from fourm_engine.nn.adapt import plain_state
from fourm_engine.nn.config import ModelConfig
from fourm_engine.nn.parts import encoder_of
from fourm_engine.nn.transformer import Transformer
from fourm_engine.vocabulary import Entry, Vocabulary


def inputs_of(vocabulary: Vocabulary, names: Sequence[str]) -> Vocabulary:
    """The vocabulary reduced to some modalities, in the same order."""
    entries, start = list[Entry](), 0
    for entry in vocabulary:
        if entry.name in names:
            entries.append(replace(entry, index=len(entries), start=start, stop=start + entry.size))
            start += entry.size
    return Vocabulary(entries)


def encoder_alone(config: ModelConfig, vocabulary: Vocabulary) -> Transformer:
    """A `Transformer` without the parts of the decoder, on the meta device."""
    with torch.device("meta"):
        network = Transformer(config, vocabulary)
    return encoder_of(network)


def drawn(config: ModelConfig, inputs: Vocabulary) -> dict[str, Tensor]:
    """Initial weights of an encoder, drawn with a seed from torch's generator."""
    state = Transformer(config, inputs).state_dict()
    return {name: state[name] for name in encoder_alone(config, inputs).state_dict()}


def learning(
    config: ModelConfig, inputs: Vocabulary, settings: FinetuneConfig, weights: dict[str, Tensor]
) -> Transformer:
    """An encoder with these weights on the CPU, frozen and adapted according to `settings`. Raises ValueError, naming
    the setting, for a name that matches no parameter of the encoder."""
    network = encoder_alone(config, inputs)
    network.to_empty(device="cpu")
    network.init_buffers()
    network.load_state_dict(weights)
    adapt(network, settings, config)
    if not inputs.size:  # no input has tokens: a table without rows
        network.embedding.encoder_table.requires_grad_(False)
    return network


def plain_weights(
    config: ModelConfig, inputs: Vocabulary, settings: FinetuneConfig, state: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The state of a plain encoder, from that of a `learning` one, with adapters merged."""
    network = encoder_alone(config, inputs)
    adapt(network, settings, config)
    network.to_empty(device="cpu").load_state_dict(state)
    return plain_state(network)

"""The source of a task's encoder: a model, or the encoder of a trained task (as ImageNet-21k before ImageNet-1k).

In: the `finetune` section and the inputs. Out: `TaskSource`: their vocabulary, tokenizers, and the encoder's weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fourm_engine import exported
from fourm_engine.finetune.config import FinetuneConfig
from fourm_engine.finetune.source import SIZE_SETTINGS, Description, Source, check_known, describe
from fourm_engine.identity import check_identity
from fourm_engine.modalities import Modalities
from fourm_engine.nn.config import ModelConfig
from fourm_engine.nn.transformer import Transformer
from fourm_engine.pretrain.initial_weights import warm_start
from fourm_engine.tokenizers.store import load_tokenizers
from fourm_engine.transfer.backbone import encoder_alone, inputs_of
from fourm_engine.transfer.task_folder import SavedTask, is_task, locate, read_task
from fourm_engine.vocabulary import Vocabulary
from fourm_engine.weights import opened
from fourm_plugins.manager import PluginManager
from fourm_plugins.tokenizer import Tokenizer


@dataclass(frozen=True)
class TaskSource:
    """`inputs`: the vocabulary of the inputs, with the layouts of this run. `read()`: the weights of their encoder."""

    file: Path
    model: ModelConfig
    training: Modalities
    inputs: Vocabulary
    tokenizers: Callable[[Path], Mapping[str, Tokenizer]]
    read: Callable[[], dict[str, Tensor]]


def describe_source(source: str, manager: PluginManager) -> Description:
    """The description of a model or trained task. Raises ValueError if it is missing or damaged."""
    if not is_task(source):
        return describe(source, manager)
    folder = locate(Path(source))
    encoder = read_task(folder).encoder
    settings = {name: {"plugin": m.plugin, **m.settings} for name, m in encoder.modalities.items()}
    tokenizers = folder / exported.TOKENIZERS
    return Description(folder / exported.WEIGHTS, encoder.model, encoder.build_vocabulary(), settings, tokenizers)


def open_source(name: str, training: Modalities, manager: PluginManager) -> TaskSource:
    """Raises ValueError as `Source.open` does."""
    if is_task(name):
        return _of_task(name, locate(Path(name)), training, manager)
    model = describe(name, manager).model
    source = Source.open(FinetuneConfig(source=name), training, model, manager)
    inputs = inputs_of(source.vocabulary, list(training))

    def read() -> dict[str, Tensor]:
        with torch.device("meta"):
            meta = warm_start(Transformer(model, source.vocabulary), source.read, source.shapes, seed=0)
        state = {name: torch.empty(p.shape) for name, p in encoder_alone(model, source.vocabulary).named_parameters()}
        for name, tensor in state.items():
            meta.fill(name, tensor, 0, len(tensor))
        return _rows(state.__getitem__, source.vocabulary, inputs, model)

    return TaskSource(source.weights, model, training, inputs, source.tokenizers, read)


def _of_task(name: str, folder: Path, training: Modalities, manager: PluginManager) -> TaskSource:
    saved = read_task(folder)
    check_known(name, saved.encoder.modalities, training)
    for key, modality in training.items():
        where, remedy = f"{name}: {key!r} of the model", "leave the setting out to keep the model's"
        identity = saved.encoder.modalities[key].identity
        check_identity(identity, modality, where=where, remedy=remedy, ignore=SIZE_SETTINGS)
    known = saved.encoder.build_vocabulary().resized(training.specs)
    inputs, file = inputs_of(known, list(training)), folder / exported.WEIGHTS

    def tokenizers(tokenizer_folder: Path) -> dict[str, Tokenizer]:
        loaded = load_tokenizers(tokenizer_folder, training.token_spaces, manager, modalities=training)
        for key, tokenizer in loaded.items():
            space = training[key].spec.token_space
            if space is not None and saved.encoder.tokenizers.get(space.name) != tokenizer.fingerprint:
                raise ValueError(
                    f"{tokenizer_folder}: the tokenizer of {key!r} is not the one that {name} was trained with; set "
                    f"tokenizers.folder: {folder / exported.TOKENIZERS}"
                )
        return loaded

    return TaskSource(file, saved.encoder.model, training, inputs, tokenizers, lambda: _backbone(file, saved, inputs))


def _backbone(file: Path, saved: SavedTask, inputs: Vocabulary) -> dict[str, Tensor]:
    known, model = saved.encoder.build_vocabulary(), saved.encoder.model
    prefix, parts = "backbone.", encoder_alone(model, known).state_dict()
    with opened(file, {prefix + name: tuple(part.shape) for name, part in parts.items()}, only=prefix) as weights:
        return _rows(lambda name: weights.get_tensor(prefix + name), known, inputs, model)


def _rows(
    read: Callable[[str], Tensor], known: Vocabulary, inputs: Vocabulary, model: ModelConfig
) -> dict[str, Tensor]:
    """The weights for an encoder of `inputs`, selected from a network with the vocabulary `known` through `read`."""
    weights = {name: read(name) for name in encoder_alone(model, inputs).state_dict()}
    table, rows = "embedding.encoder_table", [slice(known[e.name].start, known[e.name].stop) for e in inputs]
    weights[table] = torch.cat([weights[table][part] for part in rows])
    weights["embedding.modality"] = weights["embedding.modality"][[known[e.name].index for e in inputs]]
    return weights

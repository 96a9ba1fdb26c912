"""The source model of a fine-tuning run, checked against the run before any computation.

In: the `finetune` section, the modalities to train, the shape of the model. Out: the vocabulary with their layouts, all
modalities and tokenizers of the exported model, and the network with its weights.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fourm_engine import exported
from fourm_engine.convert import published, published_model
from fourm_engine.convert.absent import AbsentTokenizer
from fourm_engine.convert.domains import fitted, match, restrict
from fourm_engine.convert.tensors import vocabulary_of
from fourm_engine.exported import ExportedConfig
from fourm_engine.finetune.config import FinetuneConfig
from fourm_engine.finetune.trainable import adapt
from fourm_engine.identity import check_identity
from fourm_engine.loading import SIZE_SETTINGS, load_parts
from fourm_engine.modalities import Modalities, host_of
from fourm_engine.model import FourM
from fourm_engine.nn.config import SIZES, ModelConfig
from fourm_engine.nn.transformer import Transformer
from fourm_engine.tokenizers.store import DOCUMENT, load_tokenizers
from fourm_engine.vocabulary import Vocabulary
from fourm_engine.weights import Read
from fourm_plugins.manager import PluginManager
from fourm_plugins.suggest import did_you_mean
from fourm_plugins.tokenizer import Tokenizer

#: Settings of the model's shape that may exceed the source's.
GROWING = ("encoder_blocks", "decoder_blocks", "registers")


@dataclass(frozen=True)
class Description:
    """A model's description, without its weights."""

    weights: Path
    model: ModelConfig
    vocabulary: Vocabulary
    #: Modality -> settings of its plugin, and as `plugin` the entry point.
    settings: dict[str, dict[str, Any]]
    tokenizers: Path | None  # folder of the model's tokenizers


def locate(source: str) -> tuple[Path, bool]:
    """(file of a model's weights, whether it is in the published format). Downloads a Hub id."""
    path = published.find(source)
    folder = exported.locate(source) if path is None else path.parent
    path = path or published.find(folder)
    return path or folder / exported.WEIGHTS, path is not None


def describe(source: str, manager: PluginManager) -> Description:
    """The description of a model. Raises ValueError if it is missing or damaged."""
    path, is_published = locate(source)
    if is_published:
        checkpoint = published_model.open_checkpoint(path)
        matched, _ = match(checkpoint.domains, manager, {})
        kept = fitted(checkpoint.domains, matched)
        names = {domain: modality.name for domain, (modality, _) in matched.items()}
        settings = {m.name: {"plugin": plugin, **m.settings.model_dump(mode="json")} for m, plugin in matched.values()}
        return Description(path, checkpoint.config, vocabulary_of(kept, names), settings, None)
    saved = exported.read_config(path.parent)
    settings = {name: {"plugin": m.plugin, **m.settings} for name, m in saved.modalities.items()}
    return Description(path, saved.model, saved.build_vocabulary(), settings, path.parent / exported.TOKENIZERS)


def filled(
    model: Mapping[str, Any], settings: Mapping[str, Any], description: Description, names: list[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The sections `model` and `modalities.settings` of a config, with unset values filled in from a model's
    description. `names`: the modalities to train."""
    shape = description.model.model_dump(exclude={"size"})
    if "size" in model:
        shape = {key: value for key, value in shape.items() if key not in SIZES["B"]}
    known = {name: description.settings[name] for name in names if name in description.settings}
    return {**shape, **model}, _merged(known, settings)


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`below` with the values of `above`, key by key at every depth."""
    merged = {**below, **above}
    for key in below.keys() & above.keys():
        if isinstance(below[key], Mapping) and isinstance(above[key], Mapping):
            merged[key] = _merged(below[key], above[key])
    return merged


@dataclass(frozen=True)
class Source:
    """A model and the run that starts from it.

    `training`: the modalities to train; `modalities`: all modalities of the exported model."""

    settings: FinetuneConfig
    weights: Path
    trained_config: ModelConfig
    model_config: ModelConfig  # of the network that is trained
    training: Modalities
    modalities: Modalities
    vocabulary: Vocabulary
    trained_tokenizers: Mapping[str, Tokenizer]  # `AbsentTokenizer` for those that the model lacks
    missing: dict[str, str]
    origin: tuple[Path, ExportedConfig] | None
    shapes: Mapping[str, tuple[int, ...]]  # of the model's parameters
    read: Read  # reads rows of them

    @classmethod
    def open(cls, settings: FinetuneConfig, training: Modalities, model: ModelConfig, manager: PluginManager) -> Source:
        """Raises ValueError for a missing model, another shape, a modality that the model lacks or whose settings
        change the meaning of ids or pixels, and a name in the section that matches no parameter."""
        weights, is_published = locate(settings.source)
        given = None
        if is_published:  # the file does not describe how its data was made, but the config may
            check_known(settings.source, describe(settings.source, manager).settings, training)
            sizes = set(SIZE_SETTINGS)
            given = {name: m.settings.model_dump(mode="json", exclude=sizes) for name, m in training.items()}
        parts = load_parts(settings.source, device="cpu", manager=manager, settings=given, weights=False)
        for name in training.keys() & parts.missing.keys():
            raise ValueError(f"modalities.select: {parts.missing[name]}")
        check_known(settings.source, parts.modalities, training)
        for name, modality in training.items():
            trained = parts.modalities[name]
            where, remedy = f"{settings.source}: {name!r} of the model", "leave the setting out to keep the model's"
            check_identity(trained.identity(), modality, where=where, remedy=remedy, ignore=SIZE_SETTINGS)
            restrict(modality, trained.spec.input, trained.spec.target)
        check_shape(settings.source, parts.network.config, model)
        vocabulary = parts.vocabulary.resized(training.specs)
        with torch.device("meta"):  # report names that match no parameter early
            adapt(Transformer(model, vocabulary), settings, parts.network.config)
        return cls(
            settings,
            weights,
            parts.network.config,
            model,
            training,
            Modalities((parts.modalities | training).values(), parts.modalities.plugins | training.plugins, manager),
            vocabulary,
            parts.tokenizers,
            parts.missing,
            parts.origin,
            {name: tuple(parameter.shape) for name, parameter in parts.network.named_parameters()},
            parts.read,
        )

    def tokenizers(self, folder: Path) -> dict[str, Tokenizer]:
        """Modality -> tokenizer, for all modalities to train that have tokens. Raises ValueError if one is missing, or
        is not the one that the model was trained with."""
        spaces, manager = self.training.token_spaces, host_of(self.training)
        for space, specs in spaces.items():
            if not (folder / space / DOCUMENT).is_file():
                name, remedy = specs[0].name, self._remedy(specs[0].name, folder)
                raise ValueError(f"{folder / space}: no tokenizer of {name!r}, whose ids the model knows; {remedy}")
        loaded = load_tokenizers(folder, spaces, manager, modalities=self.training)
        for name, tokenizer in loaded.items():
            trained = self.trained_tokenizers[name]
            if not isinstance(trained, AbsentTokenizer) and trained.fingerprint != tokenizer.fingerprint:
                raise ValueError(
                    f"{folder}: the tokenizer of {name!r} is not the one that {self.settings.source} was trained with, "
                    f"and its ids mean something else; {self._remedy(name, folder)}"
                )
        return loaded

    def _remedy(self, name: str, folder: Path) -> str:
        if not isinstance(self.trained_tokenizers[name], AbsentTokenizer):
            return f"set tokenizers.folder: {self.weights.parent / exported.TOKENIZERS}"
        space = self.training[name].spec.token_space
        assert space is not None
        return f"convert the published one: fourm convert SOURCE {folder / space.name} --to native --modality {name}"

    def exported(self, network: Transformer, tokenizers: Mapping[str, Tokenizer]) -> FourM:
        """The model with a trained network. `tokenizers`: of the trained modalities."""
        return FourM(
            network,
            self.modalities,
            {**self.trained_tokenizers, **tokenizers},
            self.vocabulary,
            missing=self.missing,
            origin=self.origin,
        )


def check_shape(source: str, trained: ModelConfig, model: ModelConfig) -> None:
    """Raise ValueError if the run's model differs in shape from its source, except for additional blocks, registers
    and stems."""
    was, now = trained.model_dump(), model.model_dump()
    for key in was:  # in the order of the settings
        if key not in ("size", *GROWING) and was[key] != now[key] and (key, now[key]) != ("stem", "conv"):
            raise ValueError(
                f"model.{key} is {now[key]!r}, but {was[key]!r} in {source}; fine-tuning keeps the model's shape: "
                f"leave it out of `model`"
            )
    for key in GROWING:
        if now[key] < was[key]:
            raise ValueError(f"model.{key} is {now[key]}, but {source} has {was[key]}; keep them, or add some")


def check_known(source: str, known: Collection[str], training: Collection[str]) -> None:
    """Raise ValueError for a modality to train that the model does not know."""
    for name in training:
        if name not in known:
            hint = did_you_mean(name, known, otherwise="it knows")
            raise ValueError(
                f"modalities.select: {source} does not know {name!r}; {hint} (fourm extend adds modalities to a model)"
            )

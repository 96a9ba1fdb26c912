"""Extension: a trained model and its new modalities, checked for compatibility before training.

In: a model, the names of new modalities, and the folder of their tokenizers. Out: all modalities, a vocabulary that
begins with the model's rows, and the tokenizers: the model's for all token spaces that it knows, fitted ones for new
spaces.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fourm_engine import exported
from fourm_engine.convert import published
from fourm_engine.convert.absent import AbsentTokenizer
from fourm_engine.exported import ExportedConfig
from fourm_engine.extend.config import ExtendConfig
from fourm_engine.loading import Parts, load_parts
from fourm_engine.modalities import Modalities, ModalitiesConfig, activate_kinds, check_settings, load_manager
from fourm_engine.nn.config import ModelConfig
from fourm_engine.tokenizers.store import DOCUMENT, load_tokenizer, load_tokenizers
from fourm_engine.vocabulary import Vocabulary
from fourm_plugins.manager import PluginManager
from fourm_plugins.spec import ModalitySpec
from fourm_plugins.tokenizer import Tokenizer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Extension:
    """A model and its new modalities, checked to fit. `modalities`: all with an installed plugin, new ones included."""

    settings: ExtendConfig
    folder: Path  # of the exported model
    fitted: Path  # folder of the tokenizers of new token spaces
    saved: ExportedConfig
    source: Parts  # without weights
    manager: PluginManager
    modalities: Modalities
    vocabulary: Vocabulary

    @classmethod
    def open(
        cls,
        settings: ExtendConfig,
        modalities_config: ModalitiesConfig,
        model: ModelConfig,
        fitted: Path,
        manager: PluginManager | None = None,
    ) -> Extension:
        """`fitted`: folder of the tokenizers of new token spaces. Raises ValueError if the model does not exist, if a
        new modality is already in it, is not installed or has a conflicting token space, or if the config changes the
        model."""
        folder = find_model(settings.source)
        saved = exported.read_config(folder)
        manager = manager or load_manager(modalities_config)
        for name in settings.add:
            if name in saved.modalities:
                known = ", ".join(sorted(saved.modalities))
                raise ValueError(f"extend.add: {name!r} is in the model already; it has {known}")
        added, plugins = [], {}
        for name in settings.add:
            given = dict(modalities_config.settings.get(name, {}))
            entry_point = given.pop("plugin", name)
            added.append(manager.modality(name, plugin=entry_point, **given))
            plugins[name] = manager.find("modality", entry_point)
        source = load_parts(folder, device="cpu", manager=manager, weights=False)
        modalities = Modalities([*source.modalities.values(), *added], source.modalities.plugins | plugins)
        missing = [saved.modalities[name].spec for name in source.missing]
        vocabulary = source.vocabulary.extend([*modalities.specs, *missing])
        extension = cls(settings, folder, fitted, saved, source, manager, modalities, vocabulary)
        remedy = "leave the section out to keep the model's, or add the modality under another name"
        check_settings(modalities_config, source.modalities, manager, where=folder, remedy=remedy)
        extension._check_model(model)
        extension._check_spaces()
        activate_kinds(extension.training, manager, maskers=True)
        manager.freeze()
        return extension

    @property
    def new(self) -> list[ModalitySpec]:
        """Specs of the new modalities by name."""
        return [spec for spec in self.modalities.specs if spec.name not in self.source.vocabulary]

    @property
    def training(self) -> Modalities:
        """The modalities to train with: installed, and with a tokenizer if the model knows them."""
        without = self._without_tokenizer
        kept = [modality for name, modality in self.modalities.items() if name not in without]
        return Modalities(kept, {m.name: self.modalities.plugins[m.name] for m in kept})

    @property
    def unfitted(self) -> list[str]:
        """New token spaces without a usable tokenizer in `fitted`."""
        wanting = []
        for space, specs in self._new_spaces.items():
            folder = self.fitted / space
            try:
                load_tokenizer(folder, specs, self.manager, modalities=[self.modalities[s.name] for s in specs])
            except ValueError as error:
                if (folder / DOCUMENT).exists():
                    log.warning("fitting again: %s", error)
                wanting.append(space)
        return wanting

    def tokenizers(self) -> dict[str, Tokenizer]:
        """Modality -> tokenizer, for all with tokens: the model's, extended to new modalities that share its token
        spaces, and the fitted ones of new spaces. Raises ValueError if one is missing."""
        spaces = self.modalities.token_spaces
        known = {space: specs for space, specs in spaces.items() if space in self.saved.tokenizers}
        loaded = load_tokenizers(self.folder / exported.TOKENIZERS, known, self.manager, modalities=self.modalities)
        loaded |= load_tokenizers(self.fitted, self._new_spaces, self.manager, modalities=self.modalities)
        return loaded | {name: self.source.tokenizers[name] for name in self._without_tokenizer}

    @property
    def _without_tokenizer(self) -> list[str]:
        return [name for name, t in self.source.tokenizers.items() if isinstance(t, AbsentTokenizer)]

    @property
    def _new_spaces(self) -> Mapping[str, list[ModalitySpec]]:
        known = {e.spec.token_space.name for e in self.saved.modalities.values() if e.spec.token_space}
        return {space: specs for space, specs in self.modalities.token_spaces.items() if space not in known}

    def _check_model(self, config: ModelConfig) -> None:
        given, trained = config.model_dump(), self.source.network.config.model_dump()
        for key in trained.keys() - {"size"}:
            if given[key] != trained[key]:
                raise ValueError(
                    f"model.{key} is {given[key]!r}, but {trained[key]!r} in {self.folder}; an extension keeps the "
                    f"model's shape: leave `model` as it is there"
                )

    def _check_spaces(self) -> None:
        for name in self._without_tokenizer:
            spec = self.source.modalities[name].spec
            assert spec.token_space is not None
            if sharing := [new.name for new in self.new if new.token_space == spec.token_space]:
                raise ValueError(
                    f"{sharing[0]!r} shares the token space {spec.token_space.name!r} with {name!r}, whose tokenizer "
                    f"{self.folder} lacks; convert the model with it: fourm convert --tokenizer {name}=…"
                )
            log.warning("%s: no tokenizer of %s, which takes no part in training; it keeps its rows", self.folder, name)
        for name, reason in self.source.missing.items():
            log.warning("%s takes no part in training, it keeps its rows: %s", name, reason)


def find_model(source: str | Path) -> Path:
    """The folder of the exported model of a run, a folder or a Hub id. Raises ValueError, with the remedy, if there is
    none."""
    if published.find(source) is None:
        folder = exported.locate(source)
        if published.find(folder) is None:
            return folder
    raise ValueError(f"{source} is in the published format; convert it first: fourm convert {source} FOLDER")

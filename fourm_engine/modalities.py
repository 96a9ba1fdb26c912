"""The active modalities of a run: plugins and their settings.

In: the config's `modalities` section and the plugin host. Out: `Modalities`, an ordered mapping from name to instance,
from which the vocabulary is built.
"""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from fourm_engine.identity import check_identity, digest
from fourm_engine.vocabulary import Vocabulary
from fourm_plugins.discovery import ENGINE
from fourm_plugins.manager import Plugin, PluginError, PluginManager, distribution_hint
from fourm_plugins.modality import Modality
from fourm_plugins.spec import ModalitySpec
from fourm_plugins.suggest import nearest

log = logging.getLogger(__name__)
#: Minimum similarity (0 to 1) of a name with an installed modality's to be considered a typo: `dept`, not
#: `depth_sensor`.
ALIKE = 0.8
#: Kinds that `identity` covers otherwise, or that do not affect a run: only the first process has observers.
_APART = ("modality", "observer")


class ModalitiesConfig(BaseModel):
    """Which modalities take part. With `select: installed` all that are installed do, and settings of others are
    reported and left out; with a list of names exactly these do, and an absent one ends the run."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    #: `installed`: every installed modality that has data. A list: exactly these; a missing one is an error.
    select: Literal["installed"] | list[str] = "installed"
    #: {modality: settings of its plugin}. `plugin` names the plugin if it differs from the modality's name, so that one
    #: plugin serves several instances: `rgb@448: {plugin: rgb, image_size: 448}`.
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    #: Installed plugins to ignore; they are never imported.
    disable: list[str] = Field(default_factory=list)
    #: {name: distribution}, where two installed distributions claim one name.
    providers: dict[str, str] = Field(default_factory=dict)


class Modalities(dict[str, Modality]):
    """name -> modality, sorted by name, with the plugin of each, and the host that resolved them."""

    def __init__(
        self, modalities: Iterable[Modality], plugins: dict[str, Plugin], manager: PluginManager | None = None
    ) -> None:
        super().__init__((m.name, m) for m in sorted(modalities, key=lambda m: m.name))
        self.plugins, self.manager = plugins, manager

    def only(self, names: Collection[str]) -> Modalities:
        """Only the modalities of these names, with the same host."""
        plugins = {name: plugin for name, plugin in self.plugins.items() if name in names}
        return Modalities((m for m in self.values() if m.name in names), plugins, self.manager)

    @property
    def specs(self) -> list[ModalitySpec]:
        return [modality.spec for modality in self.values()]

    @property
    def token_spaces(self) -> dict[str, list[ModalitySpec]]:
        """Token space -> the specs that use it."""
        spaces: dict[str, list[ModalitySpec]] = {}
        for spec in self.specs:
            if spec.token_space is not None:
                spaces.setdefault(spec.token_space.name, []).append(spec)
        return spaces

    def vocabulary(self) -> Vocabulary:
        return Vocabulary.build(self.specs)


def host_of(modalities: Mapping[str, Modality]) -> PluginManager:
    """The plugin host that resolved the modalities; for a plain mapping, a default one."""
    host = modalities.manager if isinstance(modalities, Modalities) else None
    return PluginManager() if host is None else host


def activate_kinds(modalities: Modalities, manager: PluginManager, *, maskers: bool) -> None:
    """Activate the tokenizers (and maskers) of the modalities, before data is read. Raises PluginError for unusable
    ones."""
    for name, modality in modalities.items():
        spec = modality.spec
        try:
            if spec.tokenizer is not None:
                manager.tokenizer_class(spec.tokenizer.kind)
            if maskers:
                manager.masker_class(spec.masker_kind)
        except PluginError as error:
            raise PluginError(f"modality {name!r} cannot be used: {error}") from error


def identity(modalities: Modalities, manager: PluginManager) -> dict[str, Any]:
    """What all processes of a run must agree on, for any data and model: the layout of the vocabulary, the identity of
    each modality, and the versions of the active plugins."""
    active = {f"{kind} {name}": p for (kind, name), p in manager.active.items() if kind not in _APART}
    plugins = {f"plugin {name}": p for name, p in modalities.plugins.items()} | active
    return {
        **{key: f"{p.distribution} {p.version}" for key, p in plugins.items()},
        **{f"modality {name}": modality.spec.fingerprint() for name, modality in modalities.items()},
        **{f"settings of {name}": digest(modality.identity()) for name, modality in modalities.items()},
        **{f"vocabulary {row['name']}": row for row in modalities.vocabulary().to_json()},
        ENGINE: importlib.metadata.version(ENGINE),
    }


def check_settings(
    config: ModalitiesConfig, trained: Modalities, manager: PluginManager, *, where: str | Path, remedy: str
) -> None:
    """Raise ValueError, naming `where`, both values and the remedy, if a config's settings differ from a trained
    model's."""
    for name, modality in trained.items():
        if given := dict(config.settings.get(name, {})):
            entry_point = given.pop("plugin", name)
            configured = manager.modality(name, plugin=entry_point, **given)
            check_identity(modality.identity(), configured, where=where, remedy=remedy)


def load_manager(config: ModalitiesConfig) -> PluginManager:
    return PluginManager(disabled=config.disable, providers=config.providers)


def load_modalities(config: ModalitiesConfig, manager: PluginManager) -> Modalities:
    """Activate the selected plugins and build their instances.

    Raises PluginError (a ValueError) for a selected plugin that is missing, broken, incompatible or ambiguous."""
    entry_points = {name: settings.get("plugin", name) for name, settings in config.settings.items()}
    installed: dict[str, Plugin] = {}
    for p in manager.plugins:
        # Of several claims to a name, use the usable one.
        if p.kind == "modality" and (p.name not in installed or p.state in ("ok", "conflict")):
            installed[p.name] = p
    if config.select == "installed":
        names = _all_installed(installed, entry_points)
    else:
        names = set(config.select)
        for name, entry_point in sorted(entry_points.items()):
            if entry_point not in installed:
                near = nearest(entry_point, installed, cutoff=ALIKE)
                question = f"did you mean {near!r}?" if near else "is the name right?"
                log.warning("modality %s is configured, but nothing installed provides it; %s", name, question)
    if not names:
        raise ValueError("no modality takes part: install at least one plugin, see `fourm plugins list`")

    modalities, plugins = [], {}
    for name in sorted(names):
        settings = dict(config.settings.get(name, {}))
        entry_point = settings.pop("plugin", name)
        modalities.append(manager.modality(name, plugin=entry_point, **settings))
        plugins[name] = manager.find("modality", entry_point)
    return Modalities(modalities, plugins, manager)


def _all_installed(installed: Mapping[str, Plugin], entry_points: Mapping[str, str]) -> set[str]:
    """The usable modalities, and the configured ones that they provide; warns of the others."""
    for plugin in installed.values():
        if plugin.state in ("broken", "incompatible"):
            log.warning("modality %s left out, %s: %s; %s", plugin.name, plugin.state, plugin.reason, plugin.remedy)
    names = {name for name, plugin in installed.items() if plugin.state in ("ok", "conflict")}
    for name, entry_point in entry_points.items():
        if entry_point in names:
            names.add(name)
        elif entry_point not in installed:
            near = nearest(entry_point, installed, cutoff=ALIKE)
            remedy = f"did you mean {near!r}?" if near else f"pip install {distribution_hint(entry_point)}"
            log.warning("modality %s is configured but not installed, left out (%s)", name, remedy)
    return names

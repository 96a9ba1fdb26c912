"""The plugin host: finds plugins from installed metadata, tells the state of each, and activates those that are asked
for.

Finding reads entry points only and imports nothing of any plugin. The group's name is the API version
(`fourm.modalities.v1`), so that a plugin for another API is known before it is imported. Activation is transactional:
an import that fails, or a class that is not what its group promises, leaves no trace in the registry or in
`sys.modules`.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import importlib.util
import inspect
import os
import re
import sys
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import pluggy
from pydantic import ValidationError

from fourm_plugins import hookspecs
from fourm_plugins.explain import explain
from fourm_plugins.masker import Masker
from fourm_plugins.modality import Modality
from fourm_plugins.tokenizer import Tokenizer

API_VERSION = 1
Kind = Literal["modality", "tokenizer", "masker"]
State = Literal["ok", "broken", "incompatible", "disabled", "conflict"]

_GROUP = re.compile(r"^fourm\.(modalities|tokenizers|maskers)\.v(\d+)$")
_KINDS: dict[str, Kind] = {"modalities": "modality", "tokenizers": "tokenizer", "maskers": "masker"}
_BASES: dict[Kind, type] = {"modality": Modality, "tokenizer": Tokenizer, "masker": Masker}
_ENGINE = "fourm-engine"
#: Names in published checkpoints that are not what the project's plugin is called.
_CALLED = {"det": "boxes"}


class PluginError(ValueError):
    """A plugin that was asked for cannot be used; the message names it, the cause and the remedy."""


@dataclass(frozen=True)
class Plugin:
    """One entry point, as its distribution's metadata describes it."""

    kind: Kind
    name: str
    value: str  # "module:attribute"
    distribution: str
    version: str
    location: str
    state: State = "ok"
    reason: str = ""
    remedy: str = ""


class PluginManager:
    """`disabled` names modalities, tokenizers or maskers that are never imported, beside those that the environment
    variable `FOURM_DISABLE` names, separated by commas. `providers` settles a name that two distributions claim:
    {name: distribution}."""

    def __init__(self, *, disabled: Iterable[str] = (), providers: Mapping[str, str] | None = None) -> None:
        self._active: dict[tuple[Kind, str], type] = {}
        self._frozen = False
        self._pluggy = pluggy.PluginManager("fourm")
        self._pluggy.add_hookspecs(hookspecs)
        environment = {name.strip() for name in os.environ.get("FOURM_DISABLE", "").split(",")} - {""}
        self.plugins = _judge(_find(), set(disabled) | environment, dict(providers or {}))

    def find(self, kind: Kind, name: str) -> Plugin:
        """The plugin that provides `name`. Raises PluginError, with the nearest name and what to install."""
        claims = [p for p in self.plugins if (p.kind, p.name) == (kind, name)]
        if usable := [p for p in claims if p.state == "ok"]:
            return usable[0]
        if not claims:
            names = sorted({p.name for p in self.plugins if p.kind == kind})
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise PluginError(
                f"no installed plugin provides the {kind} {name!r}; {hint}installed: {', '.join(names) or 'none'}. "
                f"Install the package that provides it, for example: pip install {distribution_hint(name)}"
            )
        plugin = claims[0]
        origin = f"{plugin.distribution} {plugin.version}"
        raise PluginError(f"{kind} {name!r} ({origin}) is {plugin.state}: {plugin.reason}; {plugin.remedy}")

    def modality_class(self, name: str) -> type[Modality]:
        return self._activate("modality", name)

    def tokenizer_class(self, kind: str) -> type[Tokenizer]:
        return self._activate("tokenizer", kind)

    def masker_class(self, kind: str) -> type[Masker]:
        return self._activate("masker", kind)

    def modality(self, name: str, *, plugin: str | None = None, **settings: Any) -> Modality:
        """An instance called `name` of the modality class that entry point `plugin` (by default `name`) provides."""
        cls = self.modality_class(plugin or name)
        try:
            return cls(name, **settings)
        except ValueError as error:
            reason = "; ".join(explain(error, cls.Settings)) if isinstance(error, ValidationError) else _one_line(error)
            known = ", ".join(sorted(cls.Settings.model_fields))
            raise PluginError(f"modality {name!r} refuses its settings: {reason}; it knows: {known}") from error

    def freeze(self) -> None:
        """From here on nothing more may be activated: the vocabulary and the model are built from what is active."""
        self._frozen = True

    def _activate(self, kind: Kind, name: str) -> Any:
        if (kind, name) in self._active:
            return self._active[kind, name]
        plugin = self.find(kind, name)
        if self._frozen:
            raise PluginError(
                f"{kind} {name!r} was asked for after the registry was frozen; activate it before the model is built"
            )
        before = set(sys.modules)
        registered: str | None = None
        try:
            loaded = importlib.metadata.EntryPoint(plugin.name, plugin.value, "").load()
            if not inspect.isclass(loaded):
                _check_hook_names(loaded)
                registered = self._pluggy.register(loaded, name=f"{plugin.distribution}:{kind}:{name}")
                self._pluggy.check_pending()
                others = [p for p in self._pluggy.get_plugins() if p is not loaded]
                caller = self._pluggy.subset_hook_caller(f"fourm_{kind}", others)
                loaded = caller(**{"name" if kind == "modality" else "kind": name})
            if not (inspect.isclass(loaded) and issubclass(loaded, _BASES[kind])):
                raise TypeError(
                    f"{plugin.value} gives {loaded!r}, not a subclass of fourm_plugins.{_BASES[kind].__name__}"
                )
            if missing := getattr(loaded, "__abstractmethods__", None):
                raise TypeError(f"{plugin.value} does not define {', '.join(sorted(missing))}")
        except Exception as error:
            if registered is not None:
                self._pluggy.unregister(name=registered)
            package = plugin.value.partition(":")[0].partition(".")[0]
            for module in set(sys.modules) - before:
                if module.partition(".")[0] == package:
                    del sys.modules[module]
            raise PluginError(
                f"{kind} {name!r} cannot be activated: {plugin.distribution} {plugin.version} ({plugin.value}) failed "
                f"with {type(error).__name__}: {_one_line(error)}. Repair or upgrade {plugin.distribution}, or disable "
                f"it: FOURM_DISABLE={name}\n{traceback.format_exc()}"
            ) from error
        self._active[kind, name] = loaded
        return loaded


def distribution_hint(name: str) -> str:
    """What the project's own plugins are called; the best guess for a name that nothing recorded."""
    base = name.partition("@")[0]
    return f"fourm-{_CALLED.get(base, base).replace('_', '-')}"


def _find() -> list[Plugin]:
    """Every entry point of a fourm group, sorted so that neither sys.path nor the hash seed decides anything."""
    found: dict[tuple, Plugin] = {}
    for dist in importlib.metadata.distributions():
        entry_points = [ep for ep in dist.entry_points if ep.group.startswith("fourm.")]
        if not entry_points:
            continue
        try:
            requirement, damage = _unmet_requirement(dist), ""
        except ValueError as error:  # of packaging: no such requirement, no such version
            requirement, damage = "", f"its metadata cannot be read: {_one_line(error)}"
        for ep in entry_points:
            match = _GROUP.match(ep.group)
            if not match:
                continue
            plugin = Plugin(
                kind=_KINDS[match[1]],
                name=ep.name,
                value=ep.value,
                distribution=dist.metadata["Name"] or "unknown",
                version=dist.version or "unknown",
                location=str(dist.locate_file("")),
            )
            upgrade = f"pip install -U {plugin.distribution} {_ENGINE}"
            if int(match[2]) != API_VERSION:
                reason = f"made for plugin API v{match[2]}, this engine speaks v{API_VERSION}"
                plugin = replace(plugin, state="incompatible", reason=reason, remedy=upgrade)
            elif requirement:
                plugin = replace(plugin, state="incompatible", reason=requirement, remedy=upgrade)
            elif damage or not _importable(plugin.value):
                reason = damage or f"module {plugin.value.partition(':')[0]!r} is not importable"
                remedy = f"pip install --force-reinstall {plugin.distribution}"
                plugin = replace(plugin, state="broken", reason=reason, remedy=remedy)
            # A distribution seen twice on sys.path (an editable install beside its source) is one plugin.
            found.setdefault((plugin.kind, plugin.name, plugin.distribution.lower()), plugin)
    return sorted(found.values(), key=lambda p: (p.kind, p.name, p.distribution.lower()))


def _importable(value: str) -> bool:
    """Whether the package of an entry point is there; it is not imported."""
    try:
        return importlib.util.find_spec(value.partition(":")[0].partition(".")[0]) is not None
    except ValueError:  # an empty name
        return False


def _judge(plugins: list[Plugin], disabled: set[str], providers: dict[str, str]) -> list[Plugin]:
    """Apply what the user disabled, and find names that two distributions claim."""
    names = {p.name for p in plugins}
    for name in sorted(disabled | set(providers)):
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            raise PluginError(
                f"no installed plugin is called {name!r}" + (f"; did you mean {near[0]!r}?" if near else "")
            )
    judged = []
    for plugin in plugins:
        rivals = [p.distribution for p in plugins if (p.kind, p.name) == (plugin.kind, plugin.name) and p.state == "ok"]
        chosen = providers.get(plugin.name)
        if chosen is not None and chosen not in [p.distribution for p in plugins if p.name == plugin.name]:
            raise PluginError(f"providers: {chosen!r} does not provide {plugin.name!r}; {', '.join(rivals)} do")
        if plugin.name in disabled:
            plugin = replace(plugin, state="disabled", reason="disabled by the user", remedy="enable it again")
        elif chosen is not None and plugin.distribution != chosen:
            plugin = replace(plugin, state="disabled", reason=f"{chosen} was chosen", remedy="change `providers`")
        elif plugin.state == "ok" and chosen is None and len(rivals) > 1:
            reason = f"claimed by {' and '.join(rivals)}"
            remedy = (
                f"choose one in the config, `providers: {{{plugin.name}: {rivals[0]}}}`, or pip uninstall the other"
            )
            plugin = replace(plugin, state="conflict", reason=reason, remedy=remedy)
        judged.append(plugin)
    return judged


def _unmet_requirement(dist: importlib.metadata.Distribution) -> str:
    """What the distribution requires of the engine and does not get, or ''."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    for text in dist.requires or ():
        requirement = Requirement(text)
        if canonicalize_name(requirement.name) != _ENGINE or not requirement.specifier:
            continue
        try:
            version = importlib.metadata.version(_ENGINE)
        except importlib.metadata.PackageNotFoundError:
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            return f"requires {requirement}, installed is {version}"
    return ""


def _check_hook_names(module: Any) -> None:
    """A hook that is misspelt, or not marked with `hookimpl`, would be silently ignored by pluggy."""
    known = [name for name in vars(hookspecs) if name.startswith("fourm_")]
    for name in vars(module):
        if name.startswith("fourm_") and callable(getattr(module, name)):
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                raise TypeError(f"unknown hook {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
            if not hasattr(getattr(module, name), "fourm_impl"):
                raise TypeError(f"hook {name!r} is not marked with @fourm_plugins.hookimpl")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())

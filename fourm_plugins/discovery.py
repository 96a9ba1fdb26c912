"""Discovers installed plugins from the metadata of installed distributions, without importing any.

Returns a sorted `Plugin` for each entry point of a `fourm.*` group, with the state that metadata alone determines: ok,
broken (cannot work as installed) or incompatible (made for another version). `decide` applies the user's choices:
disabled names, and the provider of a name that two distributions claim. The outcome does not depend on any order, such
as that of sys.path. `fourm_plugins.distributions` decides which distributions count.
"""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal, cast

from fourm_plugins.distributions import (
    GROUP,
    KINDS,
    Installed,
    Leftover,
    canonical,
    importable,
    right_group,
    source_folder,
    survey,
)
from fourm_plugins.errors import one_line
from fourm_plugins.suggest import did_you_mean

API_VERSION = 1
ENGINE = "fourm-engine"
Kind = Literal[
    "modality", "tokenizer", "masker", "observer", "optimiser", "schedule", "order", "head", "command", "source"
]
State = Literal["ok", "broken", "incompatible", "disabled", "conflict"]

#: "package.module", or "package.module:attribute".
_VALUE = re.compile(r"^[^\W\d]\w*(\.[^\W\d]\w*)*(:[^\W\d]\w*(\.[^\W\d]\w*)*)?$")
#: Names in published checkpoints -> this project's distribution, where its name differs.
_FURTHER = (
    *("canny_edge", "sam_edge", "dinov2", "imagebind", "dinov2_global", "imagebind_global"),
    *("metadata", "color_palette", "human_poses", "sam_instance"),
)
_CALLED = {"det": "boxes"} | dict.fromkeys(_FURTHER, "more21")


class PluginError(ValueError):
    """A requested plugin cannot be used; the message names the plugin, the cause and the remedy."""

    @classmethod
    def of(cls, failure: str, error: BaseException, remedy: str = "") -> PluginError:
        """The PluginError for a `failure`, such as "masker X failed": the error and the remedy, followed by the
        traceback for the plugin's author."""
        words = f"{type(error).__name__}: {one_line(error)}".rstrip(": ")
        said = f"{failure} with {words}" + (f"; {remedy}" if remedy else "")
        return cls("\n".join([said, "".join(traceback.format_exception(error)).rstrip()]))


@dataclass(frozen=True)
class Plugin:
    """One entry point, as its distribution's metadata describes it."""

    kind: Kind
    name: str
    value: str  # "module:attribute"
    distribution: str
    version: str
    location: str  # folder it is imported from; for an editable install, its source folder
    state: State = "ok"
    reason: str = ""
    remedy: str = ""

    @property
    def module(self) -> str:
        return self.value.partition(":")[0]

    @property
    def package(self) -> str:
        """Top-level name of the module."""
        return self.module.partition(".")[0]


def discover() -> list[Plugin]:
    """Every entry point of a fourm group, in an order independent of sys.path and the hash seed."""
    return discover_all()[0]


def discover_all() -> tuple[list[Plugin], tuple[Leftover, ...]]:
    """All plugins, and the leftovers of uninstalled distributions."""
    installed, leftovers = survey()
    engine = next((package.version for package in installed if canonical(package.name) == ENGINE), "")
    plugins = [plugin for package in installed for plugin in _plugins(package, engine)]
    return sorted(plugins, key=lambda p: (p.kind, p.name, canonical(p.distribution), p.value)), tuple(leftovers)


def distribution_hint(name: str) -> str:
    """The distribution that probably provides a name, following the naming pattern of this project's plugins."""
    base = name.partition("@")[0]
    if not re.fullmatch(r"[\w-]+", base, re.ASCII):
        return "fourm-NAME"
    return f"fourm-{_CALLED.get(base, base).replace('_', '-')}"


def _plugins(package: Installed, engine: str) -> Iterator[Plugin]:
    """The plugins of one distribution, for an engine of the given version."""
    name, version, entry_points = package.name, package.version, package.entry_points
    # For an editable install, its source folder.
    location = source_folder(package.dist) or str(package.dist.locate_file(""))
    upgrade = f"pip install -U {name} {ENGINE}"
    reinstall = f"pip install --force-reinstall {name}"
    requirement, damage = "", package.damage
    if not damage:
        try:
            requires = package.dist.metadata.get_all("Requires-Dist") or package.dist.requires or []
            requirement = _unmet(requires, engine)
        except ValueError as error:  # of packaging: no such requirement, no such version
            damage = f"its metadata cannot be read: {one_line(error)}"
    if not entry_points:
        stem = name.removeprefix("fourm-")
        yield Plugin("modality", stem, "", name, version, location, "broken", damage, reinstall)
    speaks = {(m[1], ep.name) for ep in entry_points if (m := GROUP.match(ep.group)) and int(m[2]) == API_VERSION}
    for ep in entry_points:
        group = ep.group if GROUP.match(ep.group) else right_group(ep.group)
        match = GROUP.match(group)
        assert match is not None
        plugin = Plugin(cast(Kind, KINDS[match[1]]), ep.name, ep.value, name, version, location)
        rivals = sorted(other.value for other in entry_points if (other.group, other.name) == (ep.group, ep.name))
        if group != ep.group:
            reason = f"its entry point is in the group {ep.group!r}, which nothing reads; the right one is {group!r}"
            remedy = f'write [project.entry-points."{group}"] into the pyproject.toml of {name}; install it again'
            yield replace(plugin, state="broken", reason=reason, remedy=remedy)
        elif int(match[2]) != API_VERSION:
            if (match[1], ep.name) in speaks:
                continue  # it supports several versions, including ours
            reason = f"made for plugin API v{match[2]}, this engine speaks v{API_VERSION}"
            yield replace(plugin, state="incompatible", reason=reason, remedy=upgrade)
        elif damage:
            yield replace(plugin, state="broken", reason=damage, remedy=reinstall)
        elif requirement:
            yield replace(plugin, state="incompatible", reason=requirement, remedy=upgrade)
        elif len(rivals) > 1:
            reason = f"its metadata names {ep.name!r} twice: {' and '.join(rivals)}"
            yield replace(plugin, state="broken", reason=reason, remedy=reinstall)
        elif not _VALUE.match(plugin.value):
            reason = f"its entry point names {plugin.value!r:.80}, not module:attribute"
            yield replace(plugin, state="broken", reason=reason, remedy=reinstall)
        elif not importable(plugin.package):
            reason = f"module {plugin.package!r} is not importable"
            yield replace(plugin, state="broken", reason=reason, remedy=reinstall)
        else:
            yield plugin


def _unmet(requires: list[str], engine: str) -> str:
    """The requirement of the distribution that an engine of the given version does not meet; '' if none."""
    ours = [text for text in requires if canonical(text).startswith(ENGINE)]
    if not ours or not engine:
        return ""
    from packaging.requirements import Requirement

    for text in ours:
        requirement = Requirement(text)
        if canonical(requirement.name) != ENGINE or (requirement.marker and not requirement.marker.evaluate()):
            continue
        if not requirement.specifier.contains(engine, prereleases=True):
            return f"requires {requirement}, installed is {engine}"
    return ""


#: Environment variable: plugins, separated by commas, that are never imported. `--no-plugin` adds to them.
DISABLE = "FOURM_DISABLE"
#: Where a user disables plugins.
_SWITCHES = f"--no-plugin, {DISABLE} or modalities.disable"


def names_in_environment() -> set[str]:
    return {name.strip() for name in os.environ.get(DISABLE, "").split(",")} - {""}


def decide(plugins: list[Plugin], disabled: Collection[str], providers: Mapping[str, str]) -> list[Plugin]:
    """Apply the user's choices. Raises PluginError for a name that nothing installed has, and for a provider that does
    not provide it."""
    names = {plugin.name for plugin in plugins}
    for name in sorted(disabled):
        if name not in names:
            raise PluginError(f"no installed plugin is called {name!r} ({_SWITCHES}); {did_you_mean(name, names)}")
    for name, distribution in sorted(providers.items()):
        if name not in names:
            raise PluginError(f"providers: no installed plugin is called {name!r}; {did_you_mean(name, names)}")
        claims = [p.distribution for p in plugins if p.name == name]
        if canonical(distribution) not in map(canonical, claims):
            raise PluginError(
                f"providers: {distribution!r} does not provide {name!r}; it comes from {' and '.join(claims)}"
            )
    return [_decide(plugin, plugins, disabled, providers) for plugin in plugins]


def _decide(plugin: Plugin, plugins: list[Plugin], disabled: Collection[str], providers: Mapping[str, str]) -> Plugin:
    claims = [p for p in plugins if (p.kind, p.name) == (plugin.kind, plugin.name)]
    rivals = [p.distribution for p in claims if p.state == "ok"]
    chosen = providers.get(plugin.name)
    if plugin.name in disabled:
        return replace(plugin, state="disabled", reason=f"named by {_SWITCHES}", remedy="remove it there")
    if chosen is not None and canonical(plugin.distribution) != canonical(chosen):
        return replace(plugin, state="disabled", reason=f"{chosen} was chosen", remedy="change `providers`")
    if plugin.state != "ok":
        return plugin
    same = [p.distribution for p in claims if p.module == plugin.module]
    if len(same) > 1:
        # A choice would have no effect: Python imports whichever comes first on its path.
        reason = f"{' and '.join(same)} both bring the module {plugin.module!r}, of which Python sees one"
        return replace(plugin, state="conflict", reason=reason, remedy=f"pip uninstall {same[1]} (or {same[0]})")
    if chosen is None and len(rivals) > 1:
        reason = f"claimed by {' and '.join(rivals)}"
        remedy = f"choose one in the config, `providers: {{{plugin.name}: {rivals[0]}}}`, or pip uninstall the other"
        return replace(plugin, state="conflict", reason=reason, remedy=remedy)
    return plugin

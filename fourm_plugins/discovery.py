"""Which plugins are installed, from the metadata of installed distributions; no plugin is imported.

Out: a `Plugin` for each entry point of a `fourm.*` group, sorted, with the state that metadata alone can tell: ok,
broken (cannot work as it is installed) or incompatible (made for another version). `fourm_plugins.choice` adds what the
user decides.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal
from urllib.parse import unquote, urlsplit

API_VERSION = 1
ENGINE = "fourm-engine"
Kind = Literal["modality", "tokenizer", "masker"]
State = Literal["ok", "broken", "incompatible", "disabled", "conflict"]

_GROUP = re.compile(r"^fourm\.(modalities|tokenizers|maskers)\.v(\d+)$")
_KINDS: dict[str, Kind] = {"modalities": "modality", "tokenizers": "tokenizer", "maskers": "masker"}
#: "package.module", or "package.module:attribute".
_VALUE = re.compile(r"^[^\W\d]\w*(\.[^\W\d]\w*)*(:[^\W\d]\w*(\.[^\W\d]\w*)*)?$")
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
    location: str  # folder it is imported from; of an editable install, the folder of its source
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
    """Every entry point of a fourm group, in an order that neither sys.path nor the hash seed decides."""
    found: list[Plugin] = []
    seen: set[str] = set()
    for dist in importlib.metadata.distributions():
        try:
            entry_points = [ep for ep in dist.entry_points if ep.group.startswith("fourm.")]
        except Exception as error:  # a damaged file raises whatever its parser stumbles over
            if _claims_to_be_ours(dist):
                found.append(_unreadable(dist, error))
            continue
        if not entry_points:
            continue
        try:
            metadata = dist.metadata
            name, version = metadata["Name"] or "unknown", metadata["Version"] or "unknown"
        except Exception as error:
            found.append(_unreadable(dist, error))
            continue
        # A distribution that lies on sys.path twice (an editable install beside its source) is one, the first, since
        # that is what Python imports.
        if canonical(name) in seen:
            continue
        seen.add(canonical(name))
        found += _plugins(dist, metadata, entry_points, name, version)
    return sorted(found, key=lambda p: (p.kind, p.name, canonical(p.distribution), p.value))


def canonical(distribution: str) -> str:
    """One spelling of a distribution's name, as package indexes compare them."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def distribution_hint(name: str) -> str:
    """What the project's own plugins are called; the best guess for a name that nothing recorded."""
    base = name.partition("@")[0]
    return f"fourm-{_CALLED.get(base, base).replace('_', '-')}"


def _plugins(
    dist: importlib.metadata.Distribution,
    metadata: importlib.metadata.PackageMetadata,
    entry_points: list[importlib.metadata.EntryPoint],
    distribution: str,
    version: str,
) -> Iterator[Plugin]:
    try:
        requires = metadata.get_all("Requires-Dist") or dist.requires or []
        requirement, damage = _unmet(requires), ""
    except ValueError as error:  # of packaging: no such requirement, no such version
        requirement, damage = "", f"its metadata cannot be read: {one_line(error)}"
    location = _location(dist)
    upgrade = f"pip install -U {distribution} {ENGINE}"
    reinstall = f"pip install --force-reinstall {distribution}"
    for ep in entry_points:
        match = _GROUP.match(ep.group)
        if not match:
            continue
        plugin = Plugin(_KINDS[match[1]], ep.name, ep.value, distribution, version, location)
        if int(match[2]) != API_VERSION:
            reason = f"made for plugin API v{match[2]}, this engine speaks v{API_VERSION}"
            yield replace(plugin, state="incompatible", reason=reason, remedy=upgrade)
        elif requirement:
            yield replace(plugin, state="incompatible", reason=requirement, remedy=upgrade)
        elif damage:
            yield replace(plugin, state="broken", reason=damage, remedy=reinstall)
        elif not _VALUE.match(plugin.value):
            reason = f"its entry point names {plugin.value!r:.80}, not module:attribute"
            yield replace(plugin, state="broken", reason=reason, remedy=reinstall)
        elif not _importable(plugin.package):
            reason = f"module {plugin.package!r} is not importable"
            yield replace(plugin, state="broken", reason=reason, remedy=reinstall)
        else:
            yield plugin


def _claims_to_be_ours(dist: importlib.metadata.Distribution) -> bool:
    """Whether a file of entry points that cannot be read as such names a group of ours."""
    folder = getattr(dist, "_path", None)  # a pathlib or zipfile path; other finders have none
    try:
        return folder is not None and b"fourm." in (folder / "entry_points.txt").read_bytes()
    except OSError:
        return False


def _unreadable(dist: importlib.metadata.Distribution, error: Exception) -> Plugin:
    """A distribution whose metadata says that it is of ours, and nothing more."""
    folder = str(getattr(dist, "_path", "unknown"))
    stem = re.split(r"[/\\]", folder)[-1].partition("-")[0]
    reason = f"its metadata cannot be read: {one_line(error) or type(error).__name__}"
    remedy = f"pip install --force-reinstall {canonical(stem)}"
    return Plugin("modality", stem, "", canonical(stem), "unknown", _location(dist), "broken", reason, remedy)


def _location(dist: importlib.metadata.Distribution) -> str:
    """Folder of the distribution; of an editable install its source, which `direct_url.json` (PEP 610) names."""
    try:
        direct = json.loads(dist.read_text("direct_url.json") or "{}")
        if direct.get("dir_info", {}).get("editable"):
            return unquote(urlsplit(direct["url"]).path)
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        pass  # not written by pip; the folder says enough
    return str(dist.locate_file(""))


def _importable(package: str) -> bool:
    """Whether the package of an entry point is there; it is not imported."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ValueError, ImportError, AttributeError):
        return False


def _unmet(requires: list[str]) -> str:
    """What a distribution requires of the engine and does not get, or ''."""
    mine = [text for text in requires if canonical(text).startswith(ENGINE)]
    if not mine:
        return ""
    from packaging.requirements import Requirement

    try:
        version = importlib.metadata.version(ENGINE)
    except importlib.metadata.PackageNotFoundError:
        return ""
    for text in mine:
        requirement = Requirement(text)
        if canonical(requirement.name) != ENGINE or (requirement.marker and not requirement.marker.evaluate()):
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            return f"requires {requirement}, installed is {version}"
    return ""


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())

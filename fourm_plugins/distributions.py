"""Which installed distributions have plugins, as pip and Python see them; imports nothing.

From the folders of sys.path: an `Installed` for each distribution that counts, and a `Leftover` for each metadata
folder that does not: one that pip failed to remove (`~cme-0.9.dist-info`), or a duplicate of the same name.

Among several of one name, the one that Python would import counts: within a folder the one whose files exist, then the
highest version; between folders the first on sys.path. The `.egg-info` that a build leaves in a source folder counts
only if nothing else is installed.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoint
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from fourm_plugins.errors import one_line
from fourm_plugins.suggest import nearest

#: The groups of entry points that are read; the number is the API version.
KINDS = {
    "modalities": "modality",
    "tokenizers": "tokenizer",
    "maskers": "masker",
    "observers": "observer",
    "optimisers": "optimiser",
    "schedules": "schedule",
    "orders": "order",
    "heads": "head",
    "commands": "command",
    "sources": "source",
}
GROUPS = tuple(f"fourm.{plural}.v1" for plural in KINDS)
#: Its first part is a key of `KINDS`, the second the API version.
GROUP = re.compile(rf"^fourm\.({'|'.join(KINDS)})\.v(\d+)$")
_NOT_PLUGINS = re.compile(r"^fourm\.conformance\.v\d+$")
#: A substring of every misspelt group; avoids comparing all installed groups.
_ALIKE = re.compile(r"fo[ru]+m|4m|modalit|tokeni[sz]er|masker", re.IGNORECASE)
_VERSIONED = re.compile(r"^(.+?)(?:-\d[^-]*(?:-py[\d.]+)?)?\.(?:dist|egg)-info$")


@dataclass(frozen=True)
class Installed:
    """A distribution with `fourm.*` entry points. `damage`: why its metadata cannot be used, or ''."""

    dist: Distribution
    name: str
    version: str
    entry_points: tuple[EntryPoint, ...]
    damage: str = ""


Group = list[tuple[Distribution, Installed | None]]


@dataclass(frozen=True)
class Leftover:
    """A metadata folder that does not count, why, and how to remove it."""

    folder: str
    reason: str
    remedy: str


def survey() -> tuple[list[Installed], list[Leftover]]:
    """The distributions that count, and the leftovers, in the order of sys.path."""
    groups: dict[str, Group] = {}
    leftovers = []
    for dist in importlib.metadata.distributions():
        details = _look(dist)
        stem = _stem(dist)
        if stem.startswith("~"):
            if details is not None:
                reason = "pip could not remove it; it is no installed plugin"
                leftovers.append(Leftover(folder_of(dist), reason, f"rm -r {shlex.quote(folder_of(dist))}"))
            continue
        groups.setdefault(canonical(stem if details is None else details.name), []).append((dist, details))
    counted = []
    for group in groups.values():
        if all(details is None for _, details in group):
            continue
        group = _ranked(group)
        if group[0][1] is not None:
            counted.append(group[0][1])
        leftovers += _left_over(group)
    return counted, leftovers


def find_distribution(name: str) -> Distribution:
    """The installed distribution called `name`; of several, the one that counts. Raises PackageNotFoundError."""
    dists = [dist for dist in importlib.metadata.distributions(name=name) if not _stem(dist).startswith("~")]
    if not dists:
        raise importlib.metadata.PackageNotFoundError(name)
    return dists[0] if len(dists) == 1 else _ranked([(dist, _look(dist)) for dist in dists])[0][0]


def canonical(distribution: str) -> str:
    """A distribution's name in normalised form, as package indexes compare them."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def right_group(group: str) -> str:
    """The group that a misspelt one was meant to be; '' if it is correct or unrelated to plugins."""
    if GROUP.match(group) or _NOT_PLUGINS.match(group) or not _ALIKE.search(group):
        return ""
    flat = ".".join(re.findall("[a-z0-9]+", group.lower()))
    return nearest(flat, GROUPS, cutoff=0.8) or (GROUPS[0] if flat.startswith("fourm") else "")


def folder_of(dist: Distribution) -> str:
    """The folder (or file) of a distribution's metadata."""
    return str(getattr(dist, "_path", "unknown"))


def source_folder(dist: Distribution) -> str:
    """The source folder of an editable install, from its `direct_url.json` (PEP 610); '' otherwise."""
    try:
        direct = json.loads(dist.read_text("direct_url.json") or "{}")
        if direct.get("dir_info", {}).get("editable"):
            return unquote(urlsplit(direct["url"]).path)
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        pass  # not written by pip
    return ""


def importable(package: str) -> bool:
    """Whether the top-level package of an entry point exists; does not import it."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ValueError, ImportError, AttributeError):
        return False


def _look(dist: Distribution) -> Installed | None:
    """The distribution if it is relevant to plugins; None otherwise."""
    try:
        every: Iterable[EntryPoint] = dist.entry_points
    except Exception as error:  # its parser raises many kinds on a damaged file
        return _damaged(dist, f"its metadata cannot be read: {one_line(error) or type(error).__name__}")
    # A duplicate entry point counts once.
    ours = tuple(dict.fromkeys(ep for ep in every if GROUP.match(ep.group) or right_group(ep.group)))
    if not ours:
        if not every and _cannot_be_opened(dist):
            return _damaged(dist, "its entry_points.txt cannot be read")
        return None
    try:
        name, version = dist.metadata["Name"], dist.metadata["Version"]
    except Exception as error:
        return _damaged(dist, f"its metadata cannot be read: {one_line(error) or type(error).__name__}", ours)
    if not name or not version:
        return _damaged(dist, f"its metadata has no {'Version' if name else 'Name'}", ours)
    return Installed(dist, name, version, ours)


def _damaged(dist: Distribution, damage: str, ours: tuple[EntryPoint, ...] = ()) -> Installed | None:
    """A distribution of this project with incomplete metadata."""
    if not ours and not _claims_to_be_ours(dist):
        return None
    return Installed(dist, canonical(_stem(dist)), "unknown", ours, damage)


def _claims_to_be_ours(dist: Distribution) -> bool:
    """Whether an unreadable entry-point file names a `fourm.*` group, or the package has the project's prefix."""
    folder: Any = getattr(dist, "_path", None)  # a pathlib or zipfile path; other finders have none
    try:
        return folder is not None and b"fourm" in (folder / "entry_points.txt").read_bytes()
    except OSError:
        try:
            return canonical(_stem(dist)).startswith("fourm-") or "fourm-engine" in map(canonical, dist.requires or ())
        except Exception:
            return False


def _cannot_be_opened(dist: Distribution) -> bool:
    """Whether there are entry points that `importlib.metadata`, which skips unreadable files, passed over."""
    folder: Any = getattr(dist, "_path", None)
    if not isinstance(folder, Path):
        return False
    file = os.path.join(folder, "entry_points.txt")
    return os.path.exists(file) and (not os.path.isfile(file) or not os.access(file, os.R_OK))


def _stem(dist: Distribution) -> str:
    """The distribution's name from its folder's name; from its metadata for an egg, whose folder lacks it."""
    name = re.split(r"[/\\]", folder_of(dist).rstrip("/\\"))[-1]
    if match := _VERSIONED.match(name):
        return match[1]
    try:
        return dist.metadata["Name"] or name
    except Exception:
        return name


def _ranked(group: Group) -> Group:
    """Distributions of one name, the one that counts first. A folder that is also reached through a link counts
    once."""
    once = {os.path.realpath(folder_of(dist)): (dist, details) for dist, details in reversed(group)}
    group = list(reversed(once.values()))
    if len(group) < 2:
        return group
    parents = list(dict.fromkeys(os.path.realpath(os.path.dirname(folder_of(dist))) for dist, _ in group))

    def rank(member: tuple[Distribution, Installed | None]) -> tuple[Any, ...]:
        parent = os.path.realpath(os.path.dirname(folder_of(member[0])))
        return is_of_source(member[0]), parents.index(parent), *_missing(*member)

    newest = sorted(group, key=lambda member: _comparable_version(member[0]), reverse=True)
    return sorted(newest, key=rank)


def is_of_source(dist: Distribution) -> bool:
    """Whether a folder is left by a build beside the source: `name.egg-info`, without version and list of files."""
    folder = folder_of(dist)
    return folder.endswith(".egg-info") and "-" not in os.path.basename(folder).removesuffix(".egg-info")


def _missing(dist: Distribution, details: Installed | None) -> tuple[float, float]:
    """The share of the entry points' modules, and of the files in RECORD with their recorded sizes, that is missing."""
    modules = {ep.value.partition(":")[0].partition(".")[0] for ep in (details.entry_points if details else ())}
    gone = sum(not importable(module) for module in modules) / len(modules) if modules else float(details is not None)
    try:
        files = [file for file in dist.files or () if file.size is not None]
        wrong = [file for file in files if _size(str(dist.locate_file(file))) != file.size]
    except Exception:  # a damaged RECORD
        return gone, 1.0
    return gone, len(wrong) / len(files) if files else 0.0


def _size(file: str) -> int:
    try:
        return os.stat(file).st_size
    except OSError:
        return -1


def _comparable_version(dist: Distribution) -> Any:
    """The version; an invalid one sorts below all others."""
    from packaging.version import InvalidVersion, Version

    try:
        return Version(dist.version)
    except (InvalidVersion, TypeError, KeyError):
        return Version("0.dev0")


def _left_over(group: Group) -> list[Leftover]:
    """What to report about the unused distributions of one name."""
    first = group[0][0]
    name, version = canonical(_stem(first)), _version(first)
    home, source = os.path.dirname(folder_of(first)), source_folder(first)
    leftovers = []
    for dist, _ in group[1:]:
        folder = folder_of(dist)
        parent = os.path.dirname(folder)
        if is_of_source(dist):
            if source and os.path.realpath(source) == os.path.realpath(parent):
                continue  # an editable install and its own source
            reason = f"left by a build in a source folder; {name} {version} is installed in {home}"
            leftovers.append(Leftover(folder, reason, f"rm -r {shlex.quote(folder)}"))
        elif os.path.realpath(parent) == os.path.realpath(home):
            reason = f"{name} {_version(dist)} beside {version}, which counts, as an interrupted upgrade leaves it"
            leftovers.append(Leftover(folder, reason, f"rm -r {shlex.quote(folder)}"))
        else:
            reason = f"{name} {_version(dist)} is hidden by {version} in {home}, which comes first on the path"
            leftovers.append(Leftover(folder, reason, f"pip uninstall {name} in the environment that is not meant"))
    return leftovers


def _version(dist: Distribution) -> str:
    try:
        return dist.version or "unknown"
    except Exception:
        return "unknown"

"""Builds and installs a plugin's package by itself, and examines it in a process with nothing else of the plugin.

From the plugin and its source tree: a `Wheel`, the folder where it was installed, and what can be read from there.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from fourm_plugins.distributions import find_distribution, folder_of, is_of_source, source_folder
from fourm_plugins.manager import Plugin
from fourm_plugins.testing.check import CheckFailed, NotRun
from fourm_plugins.testing.probe import run_python

#: Not part of a package, and sometimes large.
_LEFT_BEHIND = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "venv", "runs")

_LOOK = """
import json, sys
request = json.loads(sys.argv[1])
answer = {}
try:
    from fourm_plugins.manager import PluginManager
    host = PluginManager()
    found = [p for p in host.plugins if (p.kind, p.name) == ("modality", request["name"])]
    answer["found"] = [[p.distribution, p.location] for p in found]
    cls = host.modality_class(request["name"])
    answer["module"] = getattr(sys.modules[cls.__module__], "__file__", "")
    modality = host.modality(request["name"], **request["settings"])
    answer["made"] = True
    samples = modality.example_samples(2, 1)
    [modality.read(dict(files)) for files in samples]
    answer["samples"] = len(samples)
except Exception as error:
    answer["error"] = f"{type(error).__name__}: {' '.join(str(error).split('Traceback')[0].split()):.400}"
print("\\n" + json.dumps(answer))
"""


@dataclass(frozen=True)
class Wheel:
    """`folder`: where only the package is installed. `source`: the tree it was built from."""

    folder: Path
    source: Path

    def look(self, name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The findings of a process with this package and its requirements, without the source tree and without .pth
        files of the site: "found", "module", "made", "samples", and "error" where it ended."""
        paths = [str(self.folder), *(path for path in _search_path() if not _inside(Path(path), self.source))]
        request, empty = json.dumps({"name": name, "settings": dict(settings)}), self.folder.parent / "empty"
        empty.mkdir(exist_ok=True)
        # -c puts the working directory first on sys.path.
        done = run_python("-S", "-c", _LOOK, request, cwd=empty, PYTHONPATH=os.pathsep.join(paths))
        try:
            seen: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
            return seen
        except (IndexError, ValueError):
            last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            return {"error": last}

    @property
    def metadata(self) -> importlib.metadata.Distribution:
        """The installed package's metadata."""
        (distribution,) = importlib.metadata.distributions(path=[str(self.folder)])
        return distribution


def build(plugin: Plugin, source: Path | None, folder: Path) -> Wheel:
    """Build the wheel from a copy of the source tree and install it into a separate folder; if the distribution was not
    installed from a folder, copy its files. Raises `NotRun` if neither is known, `CheckFailed` if pip fails."""
    tree = source or source_tree(plugin.distribution)
    if tree is None:
        return _as_installed(plugin.distribution, folder / "installed")
    if not (tree / "pyproject.toml").is_file():
        raise CheckFailed(f"{tree} has no pyproject.toml, so no wheel can be built from it")
    copy, installed = folder / "source", folder / "installed"
    shutil.copytree(tree, copy, ignore=_LEFT_BEHIND)
    if importlib.util.find_spec("pip") is None:
        raise NotRun("pip is not installed in this environment, which builds the wheel (pip install pip)")
    command = ["-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]
    if _backend_is_here(copy):
        command.append("--no-build-isolation")  # otherwise pip fetches the build backend
    command += ["--no-input", "--target", str(installed), str(copy)]
    # The copy has no history from which a version could be read.
    done = run_python(*command, SETUPTOOLS_SCM_PRETEND_VERSION=plugin.version)
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()] or ["no reason given"]
        reason = next((line for line in reversed(lines) if line.lower().startswith("error")), lines[-1])
        raise CheckFailed(f"no wheel can be built from {tree.name}: {reason}")
    return Wheel(installed, tree.resolve())


def source_tree(distribution: str) -> Path | None:
    """The folder from which a distribution was installed, editable or not; None if it came from elsewhere."""
    try:
        dist = find_distribution(distribution)
        record = json.loads(dist.read_text("direct_url.json") or "{}")
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return None
    if "dir_info" in record:
        tree = Path(url2pathname(unquote(urlsplit(record["url"]).path)))
    elif is_of_source(dist):  # installed by `setup.py develop`
        tree = Path(folder_of(dist)).parent
    else:
        return None
    return tree if tree.is_dir() else None


def _as_installed(distribution: str, folder: Path) -> Wheel:
    """Copy a distribution's files, as RECORD lists them."""
    dist = find_distribution(distribution)
    inside = [file for file in dist.files or () if ".." not in file.parts and "__pycache__" not in file.parts]
    if source_folder(dist) or not any(file.suffix == ".py" for file in inside):
        raise NotRun(
            f"the source tree of {distribution} is not known, and its list of files names no module; name the tree "
            f"(`source`, --source)"
        )
    for file in inside:
        origin, copy = Path(str(dist.locate_file(file))), folder / str(file)
        if not origin.is_file():
            raise CheckFailed(f"{file} is missing: pip install --force-reinstall {distribution}")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(origin, copy)
    return Wheel(folder, folder)


def _backend_is_here(tree: Path) -> bool:
    """Whether everything needed to build the tree is installed here, in suitable versions."""
    from packaging.requirements import InvalidRequirement, Requirement

    if sys.version_info >= (3, 11):
        import tomllib
    else:
        from pip._vendor import tomli as tomllib

    try:
        document = tomllib.loads((tree / "pyproject.toml").read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CheckFailed(f"pyproject.toml cannot be read: {error}") from None
    needed = document.get("build-system", {}).get("requires", ["setuptools"])
    try:
        return all(
            requirement.specifier.contains(importlib.metadata.version(requirement.name), prereleases=True)
            for requirement in map(Requirement, needed)
            if requirement.marker is None or requirement.marker.evaluate()
        )
    except (importlib.metadata.PackageNotFoundError, InvalidRequirement):
        return False


def _search_path() -> list[str]:
    """This process's sys.path, and the folder of the SDK, in case a .pth file added it."""
    return [*(os.path.abspath(path) for path in sys.path), str(Path(__file__).resolve().parents[2])]


def _inside(path: Path, tree: Path) -> bool:
    """Whether a folder of sys.path belongs to the source tree (an environment that lies inside it does not)."""
    path = path.resolve()
    return path.is_relative_to(tree) and "site-packages" not in path.parts

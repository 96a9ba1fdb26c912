"""`fourm plugins doctor`: checks what a run needs by doing it.

In: the plugin host, the plugins to check, and optionally a run's config. Out: a list of `Check`. Each is a real test:
plugins are activated (in separate processes), matrices multiplied, files written, processes joined. Nothing is
downloaded, and no file stays behind.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fourm_engine.recipes.progress import Progress, warn
from fourm_plugins.discovery import ENGINE, Plugin
from fourm_plugins.distributions import Leftover, canonical, find_distribution
from fourm_plugins.hub import check_there
from fourm_plugins.probe import probe_all

if TYPE_CHECKING:
    from packaging.requirements import Requirement

#: Warn below this: the checkpoint of a small model, or one file of a large one.
MIN_FREE = 1 << 30


@dataclass(frozen=True)
class Check:
    """`bad` prevents a run; `note` is worth knowing."""

    name: str
    state: Literal["ok", "note", "bad"]
    detail: str
    remedy: str = ""


def check_python() -> Iterator[Check]:
    from packaging.specifiers import SpecifierSet

    version = ".".join(map(str, sys.version_info[:3]))
    wanted = importlib.metadata.metadata(ENGINE)["Requires-Python"] or ""
    good = SpecifierSet(wanted).contains(version)
    yield Check("python", "ok" if good else "bad", f"{version}, {ENGINE} needs {wanted}", "" if good else "use a newer")


def check_requirements(distributions: Iterable[str]) -> Iterator[Check]:
    """The packages that each distribution requires, and its extras."""
    for name in dict.fromkeys(distributions):
        needed, optional = _requirements(name)
        unmet = {str(r): why for r in needed if (why := _unmet(r))}
        if unmet:
            detail = "; ".join(f"{requirement}: {why}" for requirement, why in unmet.items())
            yield Check(f"requirements of {name}", "bad", detail, f"pip install -U {name}")
        else:
            version = find_distribution(name).version
            yield Check(f"requirements of {name}", "ok", f"{name} {version}: {_all(len(needed))}")
        for extra, requirements in optional.items():
            if missing := sorted(r.name for r in requirements if _unmet(r)):
                detail = f"{', '.join(missing)} missing or too old"
                yield Check(f"optional {name}[{extra}]", "note", detail, f"pip install '{name}[{extra}]'")
            else:
                yield Check(f"optional {name}[{extra}]", "ok", _all(len(requirements)))


def _all(number: int) -> str:
    return "all installed" if number != 1 else "installed"


def _requirements(name: str) -> tuple[list[Requirement], dict[str, list[Requirement]]]:
    """(needed here, {extra: more})."""
    from packaging.requirements import Requirement

    dist = find_distribution(name)
    requirements = [Requirement(text) for text in dist.requires or ()]
    needed = [r for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]
    extras = dist.metadata.get_all("Provides-Extra") or []
    optional = {
        extra: [r for r in requirements if r not in needed and r.marker and r.marker.evaluate({"extra": extra})]
        for extra in extras
    }
    return needed, optional


def _unmet(requirement: Requirement) -> str:
    try:
        version = find_distribution(requirement.name).version
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
    return "" if requirement.specifier.contains(version, prereleases=True) else f"installed is {version}"


def check_plugins(plugins: Iterable[Plugin], selected: set[tuple[str, str]], *, timeout: float) -> Iterator[Check]:
    """Activate every plugin in `selected`, (kind, name), and report the state of others that are not ok."""
    plugins = list(plugins)
    chosen = [p for p in plugins if (p.kind, p.name) in selected]
    progress = Progress("importing plugins", warn, unit="plugins")
    for probe in probe_all(chosen, timeout=timeout, progress=progress):
        p = probe.plugin
        name, origin = f"{p.kind} {p.name}", f"{p.distribution} {p.version}"
        if p.state == "ok":
            detail = f"{origin}, activated in {probe.seconds:.1f} s" + (f"; {p.reason}" if p.reason else "")
            yield Check(name, "note" if p.reason else "ok", detail)
        elif p.state == "disabled" and any(o.state != "disabled" and _same(o, p) for o in chosen):
            yield Check(name, "note", f"{origin}: {p.reason}")  # the other claim is the one used
        else:
            yield Check(name, "bad", f"{origin} is {p.state}: {p.reason}", p.remedy)
    for p in plugins:
        if (p.kind, p.name) not in selected and p.state != "ok":
            detail = f"{p.distribution} {p.version} is {p.state}: {p.reason}; not selected"
            yield Check(f"{p.kind} {p.name}", "note", detail, p.remedy)


def check_leftovers(leftovers: Iterable[Leftover]) -> Iterator[Check]:
    """Check for metadata folders that pip or a build left behind."""
    for left in leftovers:
        yield Check("leftover", "note", f"{left.folder} is ignored: {left.reason}", left.remedy)


def _same(a: Plugin, b: Plugin) -> bool:
    return (a.kind, a.name) == (b.kind, b.name) and canonical(a.distribution) != canonical(b.distribution)


def check_writable(folders: dict[str, Path]) -> Iterator[Check]:
    """Check `folders`: purpose -> path, which need not exist yet."""
    for what, folder in folders.items():
        existing = folder.absolute()
        while not existing.exists():
            existing = existing.parent
        name = f"writing {what}"
        try:
            with tempfile.NamedTemporaryFile(dir=existing, prefix=".fourm-doctor-") as file:
                file.write(b"\0" * 4096)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            yield Check(name, "bad", f"{existing}: {error.strerror}", "choose another folder, or free space there")
            continue
        free = shutil.disk_usage(existing).free
        detail = f"{folder}: written, {free / 2**30:.1f} GiB free"
        yield Check(name, "ok" if free >= MIN_FREE else "note", detail, "" if free >= MIN_FREE else "free space")


def check_model(model: str) -> Iterator[Check]:
    """Check a pretrained model for labelling: a folder, or a Hub id in the cache. Nothing is downloaded."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    name, files = f"model {model}", ("config.json", "model.safetensors")
    try:
        check_there(model)
    except ValueError as error:
        yield Check(name, "bad", str(error), "correct the path; see `fourm label --help`")
        return
    if Path(model).is_dir():
        missing = [file for file in files if not (Path(model) / file).is_file()]
        where = "the folder"
    else:
        try:
            missing = [file for file in files if not isinstance(try_to_load_from_cache(model, file), str)]
        except HFValidationError:
            yield Check(name, "bad", "no such folder, and no Hub id (owner/name)", "see `fourm label --help`")
            return
        where = "the cache"
    if missing:
        yield Check(name, "bad", f"{where} lacks {', '.join(missing)}", f"hf download {model}")
    else:
        yield Check(name, "ok", f"{where} holds {' and '.join(files)}")

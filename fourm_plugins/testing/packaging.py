"""Packaging: the plugin's wheel works on its own."""

from __future__ import annotations

import ast
import importlib.metadata
import sys
from pathlib import Path
from typing import Any

from fourm_plugins.testing.check import Broken, Check, require
from fourm_plugins.testing.subject import Subject

#: The distribution that provides the SDK.
_ENGINE = "fourm-engine"


def wheel_is_built(subject: Subject) -> None:
    """A wheel can be built from the source tree and installed, or was installed as it is."""
    assert subject.wheel


def wheel_is_found(subject: Subject) -> None:
    """Installed from its wheel alone, the modality is found by its entry point, imported and made."""
    wheel, seen = subject.wheel, _seen(subject)
    from_wheel = [origin for origin in seen.get("found", []) if Path(origin[1]).resolve() == wheel.folder.resolve()]
    require(from_wheel or "error" in seen, f"the wheel has no entry point {subject.name!r} in fourm.modalities.v1")
    require(seen.get("made"), f"from its wheel alone the plugin does not work: {seen.get('error')}")
    require(
        Path(seen["module"]).resolve().is_relative_to(wheel.folder.resolve()),
        f"the class comes from {Path(seen['module']).name}, which is not in the wheel",
    )


def _seen(subject: Subject) -> dict[str, Any]:
    """The findings of a process with only the wheel, which is started once."""
    return subject.once("wheel's look", "", lambda: subject.wheel.look(subject.name, subject.settings))


def wheel_has_examples(subject: Subject) -> None:
    """The example samples are made by the code or lie inside the wheel."""
    seen = _seen(subject)
    if not seen.get("made"):
        raise Broken(wheel_is_found.__name__, ValueError(seen.get("error")))
    require(seen.get("samples") == 2, f"from its wheel alone: {seen.get('error')}")


def requirements_are_declared(subject: Subject) -> None:
    """Everything the package imports is among its requirements, fourm-engine with a range of versions."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    wheel = subject.wheel
    distribution = wheel.metadata
    requirements = [Requirement(text) for text in distribution.requires or ()]
    declared = {canonicalize_name(requirement.name) for requirement in requirements}
    engine = [r for r in requirements if canonicalize_name(r.name) == _ENGINE and r.specifier]
    require(engine, f"it must require {_ENGINE} with the versions it works with, such as {_ENGINE}>=0.1,<0.2")
    modules = {path.name.removesuffix(".py") for path in wheel.folder.iterdir()}
    providers = importlib.metadata.packages_distributions()
    for path in sorted(wheel.folder.rglob("*.py")):
        for module in sorted(_imported(path) - modules - sys.stdlib_module_names - {"fourm_plugins"}):
            names = {canonicalize_name(name) for name in providers.get(module, [module])}
            require(
                names & declared,
                f"{path.relative_to(wheel.folder)} imports {module}, but {' or '.join(sorted(names))} is not required",
            )


def _imported(path: Path) -> set[str]:
    """Top-level packages that a file imports anywhere, also in functions (optional extras)."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.partition(".")[0])
    return names


CHECKS = (Check(wheel_is_built), Check(wheel_is_found), Check(wheel_has_examples), Check(requirements_are_declared))

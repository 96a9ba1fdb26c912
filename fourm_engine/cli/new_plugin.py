"""`fourm plugins new`: write a complete package for a new modality.

In: the modality's name and its layout. Out: a new folder with five files that pass the conformance kit unchanged. The
templates beside this file are `string.Template`s.
"""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import importlib.util
import keyword
import os
import re
from enum import Enum
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from fourm_engine.files import replacing_folder
from fourm_engine.lock import at_work

_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
_LONGEST_NAME = 40
#: Layout -> file extension, and an example setting.
_SHOWN = {
    "grid": ("npy", "image_size: 224, patch_size: 16"),
    "sequence": ("txt", "max_tokens: 64"),
    "vector": ("json", "codebook_size: 256"),
}


class Layout(str, Enum):
    """The arrangement of a sample's tokens."""

    grid = "grid"
    sequence = "sequence"
    vector = "vector"


def new(
    name: Annotated[str, typer.Argument(help="The modality's name, such as my_sensor; `-` becomes `_`.")],
    layout: Annotated[Layout, typer.Option(help="Arrangement of a sample's tokens.")] = Layout.grid,
    into: Annotated[Path, typer.Option(metavar="FOLDER", help="Parent folder of the new package.")] = Path("."),
) -> None:
    """Write a package for a new modality, which passes its conformance test as generated."""
    folder = write_package(name, layout.value, into)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        print(path)
    print(f'next: cd {folder}; pip install -e ".[test]"; pytest')


def write_package(name: str, layout: str, into: Path) -> Path:
    """Writes the package atomically and returns its folder. Raises ValueError if the name is invalid or taken by an
    installed package, or if the folder exists."""
    facts = _facts(name, layout)
    folder = into / facts["distribution"]
    if os.path.lexists(folder):
        raise ValueError(f"{folder}: exists already; remove it, or choose another name or --into")
    if not into.is_dir():
        raise ValueError(f"{into}: no such folder; create it, or choose another --into")
    files = {
        "pyproject.toml": "pyproject",
        f"{facts['module']}.py": layout,
        f"test_{facts['module']}.py": "test",
        "README.md": "readme",
        ".github/workflows/ci.yml": "ci",
    }
    templates = importlib.resources.files("fourm_engine.cli") / "templates"
    with at_work(folder, replaced=True), replacing_folder(folder) as temporary:
        for path, template in files.items():
            (temporary / path).parent.mkdir(parents=True, exist_ok=True)
            text = (templates / f"{template}.txt").read_text(encoding="utf-8")
            (temporary / path).write_text(Template(text).substitute(facts), encoding="utf-8")
    return folder


def _facts(name: str, layout: str) -> dict[str, str]:
    """The values of the templates' placeholders."""
    from fourm_plugins.discovery import discover

    words = name.replace("-", "_").split("_")
    cls = "".join(word.capitalize() for word in words)
    if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
        raise ValueError(
            f"{name!r} cannot be a modality's name: at most {_LONGEST_NAME} lower-case letters, digits and single `_` "
            f"or `-` between them, a letter first"
        )
    module = "_".join(("fourm", *words))
    if keyword.iskeyword(cls):
        raise ValueError(f"{name!r} would name its class {cls}, a word of Python; choose another name")
    if importlib.util.find_spec(module) is not None:
        raise ValueError(f"a package {module} is installed already; choose another name than {name!r}")
    modality = "_".join(words)
    if owners := [p.distribution for p in discover() if (p.kind, p.name) == ("modality", modality)]:
        raise ValueError(f"{' and '.join(owners)} provides the modality {modality!r} already; choose another name")
    extension, setting = _SHOWN[layout]
    return {
        "name": modality,
        "distribution": f"fourm-{'-'.join(words)}",
        "module": module,
        "cls": cls,
        "engine": _engine(),
        "extension": extension,
        "setting": setting,
    }


def _engine() -> str:
    """The requirement of this engine, excluding versions that may change the API."""
    major, minor = importlib.metadata.version("fourm-engine").split(".")[:2]
    return f"fourm-engine>={major}.{minor},<{major}.{int(minor) + 1}"

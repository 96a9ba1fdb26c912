"""Packages installed for a test without pip: their modules and the metadata that an installation leaves, in a folder
that is then put on the path.

    monkeypatch.syspath_prepend(install(tmp_path, ROOT / "examples/plugins/thermal"))
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path


def install(site: Path, *packages: Path) -> Path:
    """Install packages of single modules (`pyproject.toml`, `tool.setuptools.py-modules`) into `site`. Returns it."""
    for package in packages:
        text = (package / "pyproject.toml").read_text()
        name, version = (re.search(rf'^{key} = "(.+)"$', text, re.MULTILINE)[1] for key in ("name", "version"))
        groups = re.findall(r'^\[project\.entry-points\."(.+)"\]\n((?:\w.*\n)+)', text, re.MULTILINE)
        requires = re.findall(r'"([^"]+)"', re.search(r"^dependencies = \[(.*)\]$", text, re.MULTILINE)[1])
        for module in re.findall(r'"([^"]+)"', re.search(r"^py-modules = \[(.*)\]$", text, re.MULTILINE)[1]):
            shutil.copy(package / f"{module}.py", site)
        entries = "".join(f"[{group}]\n{lines}" for group, lines in groups).replace('"', "")
        write_metadata(site, name, version, entries, requires=requires, tree=package.resolve())
    return site


def write_metadata(
    site: Path,
    name: str,
    version: str,
    entry_points: str,
    *,
    requires: Iterable[str] = (),
    tree: Path | None = None,
) -> Path:
    """The `dist-info` of an installed package, editable if it has a `tree` of sources. Returns it."""
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    (info / "METADATA").write_text("\n".join([*lines, *(f"Requires-Dist: {r}" for r in requires), ""]))
    (info / "entry_points.txt").write_text(entry_points)
    if tree is not None:
        (info / "direct_url.json").write_text(json.dumps({"url": tree.as_uri(), "dir_info": {"editable": True}}))
    return info

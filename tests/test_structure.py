"""What the tree promises: which way imports point, and what the engine does not know."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ENGINE = sorted((ROOT / "fourm_engine").rglob("*.py"))
SDK = sorted((ROOT / "fourm_plugins").rglob("*.py"))
PLUGINS = sorted((ROOT / "plugins").rglob("fourm_*/**/*.py"))
EXAMPLE_PLUGINS = sorted((ROOT / "examples/plugins").glob("*/*.py"))
#: "clip_sample" is what `diffusers` and the published format call the clipping of predicted maps.
MODALITY = re.compile(
    r"^(?!clip_sample$)(tok_)?(rgb|depth|normals?|semseg|boxes|box|det|captions?|clip)(_[a-z]+)?(@\w+)?$"
)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def imported(path: Path) -> set[str]:
    """Top-level packages that a file imports anywhere."""
    names = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("path", ENGINE, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_file_of_the_engine_names_a_modality(path):
    strings = [n.value for n in ast.walk(tree(path)) if isinstance(n, ast.Constant)]
    assert not [s for s in strings if isinstance(s, str) and MODALITY.match(s)]


def test_the_sdk_does_not_import_the_engine():
    assert SDK
    assert not [path for path in SDK if "fourm_engine" in imported(path)]


def test_plugins_import_the_sdk_and_not_the_engine():
    assert len(PLUGINS) >= 7
    assert len(EXAMPLE_PLUGINS) >= 10
    assert not [path for path in [*PLUGINS, *EXAMPLE_PLUGINS] if "fourm_engine" in imported(path)]


def test_the_engine_imports_no_plugin():
    packages = {path.parent.name for path in (ROOT / "plugins").glob("*/fourm_*/__init__.py")}
    assert len(packages) >= 7
    assert not [path for path in ENGINE if imported(path) & packages]


def test_importing_the_sdk_and_listing_plugins_import_neither_torch_nor_a_plugin():
    code = (
        "import sys, fourm_plugins\n"
        "from fourm_plugins.manager import PluginManager\n"
        "found = PluginManager().plugins\n"
        "packages = {p.value.partition('.')[0].partition(':')[0] for p in found if p.kind == 'modality'}\n"
        "assert 'torch' not in sys.modules and not packages & set(sys.modules), packages & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("path", [*ENGINE, *SDK, *PLUGINS, *EXAMPLE_PLUGINS], ids=lambda p: str(p.relative_to(ROOT)))
def test_every_file_opens_with_what_it_holds_and_stays_under_400_lines(path):
    text = path.read_text()
    assert not text.strip() or ast.get_docstring(tree(path)), "no module docstring"
    assert text.count("\n") <= 400

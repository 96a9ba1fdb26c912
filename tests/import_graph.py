"""Which module of the SDK and the engine imports which, read from the source: imports at the top, inside functions, and
those for type checkers alike."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("fourm_plugins", "fourm_engine")


@cache
def modules() -> dict[str, Path]:
    """Dotted name -> file."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports() -> dict[str, set[str]]:
    """Module -> the modules of ours that it imports."""
    known = modules()
    return {name: set(_imported(path, known)) - {name} for name, path in known.items()}


def _imported(path: Path, known: Iterable[str]) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from package import module` imports the module, `from module import name` the module that holds it.
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            while name and name not in known:
                name = name.rpartition(".")[0]
            if name:
                yield name


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other, directly or by way of others (Tarjan's strongly connected parts)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in sorted(graph.get(name, ())):
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            part = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(part) > 1:
                found.append(sorted(part))

    for name in sorted(graph):
        if name not in index:
            visit(name)
    return found


def rooms() -> dict[str, int]:
    """Module of the engine, or package -> its floor, as the table in docs/architecture.md says."""
    text = (ROOT / "docs/architecture.md").read_text()
    block = re.search(r"```text rooms\n(.*?)```", text, re.DOTALL)
    assert block, "docs/architecture.md has no block ```text rooms"
    floors = {}
    for line in block[1].splitlines():
        floor, names = re.match(r"\s*(\d+)\s+((?:[\w.]+(?:, )?)+)", line).groups()
        floors |= {name: int(floor) for name in names.split(", ")}
    return floors


def room_of(module: str) -> str:
    """ "fourm_plugins", "data", "model", "cli": the first name below the engine. What starts processes is the command
    line's, wherever it lies, and the engine's own names (`fourm_engine/__init__.py`) are on top of all."""
    parts = module.split(".")
    if parts[0] == "fourm_plugins":
        return "fourm_plugins"
    if parts[-1] == "__main__":
        return "cli"
    return parts[1] if len(parts) > 1 else "fourm_engine"

"""`fourm plugins …`: what is installed, from metadata only; neither torch nor any plugin is imported."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import Annotated

import typer

from fourm_engine.cli.new import new

app = typer.Typer(help="Installed modality, tokenizer and masker plugins.", no_args_is_help=True)
app.command("new")(new)


@app.callback()
def _group() -> None:
    """Keeps `plugins` a group of commands even while it has one."""


@app.command("list")
def list_plugins(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list instead of a table.")] = False,
    strict: Annotated[bool, typer.Option(help="Exit 1 when any plugin is not ok.")] = False,
) -> None:
    """List every plugin found, its state, and the command that mends it."""
    from fourm_plugins.manager import PluginManager

    found = PluginManager().plugins
    if as_json:
        print(json.dumps([asdict(plugin) for plugin in found], indent=2))
    elif not found:
        print("no plugins installed; the project's own are fourm-rgb, fourm-caption, … (pip install fourm-rgb)")
    else:
        from rich.console import Console
        from rich.table import Table

        table = Table("kind", "name", "state", "distribution", "version", "reason and remedy")
        for p in found:
            table.add_row(
                p.kind, p.name, p.state, p.distribution, p.version, "; ".join(filter(None, (p.reason, p.remedy)))
            )
        Console(width=None if os.isatty(1) else 160).print(table)
    if strict and any(plugin.state != "ok" for plugin in found):
        raise typer.Exit(1)

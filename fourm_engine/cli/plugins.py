"""`fourm plugins`: list, describe and check what is installed. `list` reads only metadata; neither torch nor any plugin
is imported."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fourm_engine.cli.commands import mark_taken
from fourm_engine.cli.new_plugin import new

if TYPE_CHECKING:
    from fourm_engine.recipes.config import RunConfig
    from fourm_plugins.manager import PluginManager

app = typer.Typer(
    help="List, describe and check installed plugins, and write new ones.",
    no_args_is_help=True,
)
app.command("new")(new)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Config = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Config whose settings, `disable` and `providers` apply.")
]
Timeout = Annotated[float, typer.Option(min=0.1, help="Seconds after which a plugin counts as hanging.")]


@app.callback()
def _group() -> None:
    """Keeps `plugins` a group of commands."""


@app.command("list")
def list_plugins(
    as_json: Json = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 unless all plugins are ok.")] = False,
    load: Annotated[bool, typer.Option("--load", help="Also import each in a separate process.")] = False,
    timeout: Timeout = 60.0,
    config: Config = None,
) -> None:
    """List installed plugins, their states, and commands that fix them."""
    manager = _manager(config)[1]
    plugins = mark_taken(manager.plugins)
    rows: list[dict[str, Any]] = [asdict(plugin) for plugin in plugins]
    if load:
        from fourm_engine.recipes.progress import Progress, warn
        from fourm_plugins.probe import probe_all

        probes = probe_all(plugins, timeout=timeout, progress=Progress("importing plugins", warn, unit="plugins"))
        plugins = [probe.plugin for probe in probes]
        rows = [
            asdict(p.plugin) | {"seconds": round(p.seconds, 2), "printed": p.printed, "detail": p.detail}
            for p in probes
        ]
    if as_json:
        print(json.dumps(rows, indent=2))
    elif not rows:
        print("no plugins installed; install one, such as fourm-rgb or fourm-caption (pip install fourm-rgb)")
    else:
        _print_table(rows)
    if not as_json:
        for left in manager.leftovers:
            print(f"ignored: {left.folder}, {left.reason}\n    {left.remedy}")
    if strict and any(plugin.state != "ok" for plugin in plugins):
        raise typer.Exit(1)


def _print_table(rows: list[dict[str, Any]]) -> None:
    """Prints the table, and below it what is wrong, unwrapped, so that commands and tracebacks can be copied.
    (Importing rich would take a fifth of the time budget of a listing.)"""
    columns = ("name", "kind", "state", "distribution", "version", "location")
    widths = [max(len(column), *(len(row[column]) for row in rows)) for column in columns]
    for cells in (columns, *([row[column] for column in columns] for row in rows)):
        print("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())
    print()
    for row in rows:
        if not row["reason"]:
            continue
        print(f"{row['name']} ({row['kind']}, {row['distribution']} {row['version']}) {row['state']}: {row['reason']}")
        if row["remedy"]:
            print(f"    {row['remedy']}")
        for line in row.get("detail", "").splitlines():
            print(f"    {line}")


@app.command("info")
def info(
    name: Annotated[str, typer.Argument(help="A plugin, or with --config an instance of a modality.")],
    as_json: Json = False,
    config: Config = None,
    run: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Run, exported model or tokenizer folder, to show the fingerprint of the fitted tokenizer.",
        ),
    ] = None,
) -> None:
    """Describe a plugin: layout, tokens, tokenizer, files, licence, metrics, settings."""
    from fourm_engine.installed.describe import describe, print_description

    with redirect_stdout(sys.stderr):  # keep what a plugin prints out of the output
        descriptions = describe(name, *_manager(config), run)
    if as_json:
        print(json.dumps(descriptions, indent=2))
    else:
        for description in descriptions:
            print_description(description)


@app.command("doctor")
def doctor(
    names: Annotated[list[str] | None, typer.Argument(help="Check only these plugins. Default: all.")] = None,
    as_json: Json = False,
    config: Config = None,
    model: Annotated[
        list[str] | None, typer.Option(metavar="MODEL", help="A model for `fourm label`, to check; repeatable.")
    ] = None,
    timeout: Timeout = 60.0,
) -> None:
    """Check that everything a run needs works on this machine; exit code 1 if something does not."""
    from fourm_engine.installed.examine import examine

    settings, manager = _manager(config)
    bad = 0
    checks = []
    for check in examine(manager, settings, names or [], models=model or [], timeout=timeout):
        checks.append(asdict(check))
        bad += check.state == "bad"
        if not as_json:
            remedy = f"\n      {check.remedy}" if check.remedy else ""
            print(f"{check.state:4}  {check.name}: {check.detail}{remedy}", flush=True)
    if as_json:
        print(json.dumps(checks, indent=2))
    else:
        print(f"{len(checks)} checks, {bad} bad")
    if bad:
        raise typer.Exit(1)


def _manager(config: Path | None) -> tuple[RunConfig | None, PluginManager]:
    from fourm_plugins.manager import PluginManager

    if config is None:
        return None, PluginManager()
    from fourm_engine.modalities import load_manager
    from fourm_engine.recipes.config import load_config

    settings = load_config(config)
    return settings, load_manager(settings.modalities)

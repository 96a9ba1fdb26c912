"""`fourm runs`: list, compare and plot runs, and print their any-to-any matrices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from fourm_engine.cli.command_setup import Group
from fourm_engine.cli.tables import Table, show
from fourm_plugins.counting import number, printable


class _Runs(Group):
    """Calls the default sub-command if none is named."""

    default = "list"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ("-h", "--help")):
            args = [self.default, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=_Runs, help="List and compare runs, and plot their curves. Without a command, list them.")

Run = Annotated[Path, typer.Argument(help="A run's folder.")]
Several = Annotated[list[Path], typer.Argument(help="Folders of runs.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.command("list")
def list_runs(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(help="Runs, or folders that contain runs up to four levels deep. Default: runs."),
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """List runs with their state, progress, losses, speed, time and versions."""
    from fourm_engine.recipes import runs

    folders = folders or [Path("runs")]
    rows = [run.row() for run in runs.find_runs(folders)]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    if not rows:
        typer.echo(f"no run in {', '.join(map(str, folders))}")
        return
    columns = ("run", "what", "state", "step", "loss", "best held out", "time", "samples/s", "device", "version")
    table = Table(*columns)
    for row in rows:
        table.add_row(*_cells(row))
    show([table], [printable(f"{row['run']}: {row['error']}") for row in rows if row["error"]])


def _cells(row: dict[str, Any]) -> list[str]:
    from fourm_engine.train.metrics import duration

    steps = f"/{row['steps']}" if row["steps"] is not None else ""
    kept = ", kept" if row["kept_step"] is not None and row["kept_step"] == row["best_step"] else ""
    best = "" if row["best_held_out"] is None else f"{row['best_held_out']:.4g} ({row['best_step']}{kept})"
    version = " ".join(str(part) for part in (row["engine"], row["commit"]) if part)
    speed = "" if row["samples_per_s"] is None else number(row["samples_per_s"])
    seconds = "" if row["seconds"] is None else duration(row["seconds"])
    loss = "" if row["loss"] is None else f"{row['loss']:.4g}"
    what, device = (str(row[name] or "") for name in ("what", "device"))
    return [row["run"], what, row["state"], f"{row['step']}{steps}", loss, best, seconds, speed, device, version]


@app.command()
def compare(
    runs: Several,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Show every setting and loss, even of one run.")] = False,
    as_json: Json = False,
) -> None:
    """Compare runs: settings that differ, and losses after equal steps, samples and seconds."""
    from fourm_engine.recipes.compare_runs import compare_runs

    comparison = compare_runs(runs)
    if as_json:
        typer.echo(json.dumps(comparison.to_json(), indent=1))
        return
    settings = Table("setting", *comparison.names, title="settings that differ")
    every = {}
    for name, row in comparison.settings.items():
        every[name] = ["" if value is None else json.dumps(value, ensure_ascii=False) for value in row]
    shown = every if everything else comparison.brief
    for name, values in shown.items():
        settings.add_row(name, *values)
    tables, left_out = [settings] if shown else [], sum(name not in shown for name in every)
    if comparison.machines:
        tables.append(Table("machine", *comparison.names, title="machines and versions that differ"))
        for name, row in comparison.machines.items():
            tables[-1].add_row(name, *("-" if value is None else str(value) for value in row))
    for axis, (where, losses) in comparison.at.items():
        table = Table("loss", *comparison.names, title=f"after {where:.6g} {'steps' if axis == 'step' else axis}")
        for name, numbers in losses.items():
            differ = None not in numbers and len(set(numbers)) > 1
            if everything or (differ and (axis == "step" or name == "loss")):
                table.add_row(name, *("" if value is None else f"{value:.4g}" for value in numbers))
            else:
                left_out += 1
        tables += [table] if table.rows else []
    notes = [] if comparison.settings else ["the settings are the same"]
    notes += [f"{left_out:,} more rows: --all"] if left_out else []
    show(tables, notes, width=80)


@app.command()
def plot(
    runs: Several,
    *,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The file to write: .png, .svg, .pdf or .html.")],
    by: Annotated[str, typer.Option(metavar="AXIS", help="Horizontal axis: step, samples or seconds.")] = "step",
) -> None:
    """Plot the loss curves of runs, one panel per modality; dots are held-out losses."""
    from fourm_engine.recipes.compare_runs import plot_runs

    for note in plot_runs(runs, out, axis=by):
        typer.echo(note, err=True)
    typer.echo(str(out))


@app.command()
def pairs(
    run: Run,
    *,
    step: Annotated[int | None, typer.Option(help="Step of the matrix. Default: the last.")] = None,
    as_json: Json = False,
) -> None:
    """Print the any-to-any matrix of held-out losses of a run with train.pairs_every."""
    from fourm_engine.recipes.runs import matrix_of

    at, matrix = matrix_of(run, step)
    if as_json:
        typer.echo(json.dumps({"step": at, "pairs": matrix}, indent=1))
        return
    targets = sorted({target for row in matrix.values() for target in row})
    table = Table("given", *targets, title=f"nats per target token, held out, step {at}; * lowest of its column")
    lowest = {target: min(row[target] for row in matrix.values() if target in row) for target in targets}
    for given, row in matrix.items():
        cells = [f"{row[t]:.3g}{'*' if row[t] == lowest[t] else ''}" if t in row else "·" for t in targets]
        table.add_row(given, *cells)
    show([table])

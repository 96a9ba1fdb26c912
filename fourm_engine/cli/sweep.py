"""`fourm sweep`: train and compare variants of a config. `fourm suite`: compare encoders on tasks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from fourm_engine.cli.options import Overrides
from fourm_engine.cli.tables import Table, show
from fourm_plugins.counting import printable

if TYPE_CHECKING:
    from fourm_engine.sweep.results import Results
    from fourm_engine.sweep.suite import Suite, SuiteResults
    from fourm_engine.sweep.sweep import Sweep

File = Annotated[Path, typer.Argument(metavar="FILE", help="A sweep file; see docs/sweeps.md.")]
Jobs = Annotated[
    int, typer.Option(min=1, max=256, help="Number of trials to run at once, each on one GPU if there are any.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check the file and list its trials; train nothing.")]
Report = Annotated[bool, typer.Option("--report", help="Report the results so far; train nothing.")]


def sweep(
    file: File,
    overrides: Overrides = None,
    *,
    jobs: Jobs = 1,
    dry_run: DryRun = False,
    report: Report = False,
    as_json: Json = False,
) -> None:
    """Train the missing trials of a sweep and compare all. Start it again to resume, or several times to share it."""
    from fourm_engine.recipes.progress import warn
    from fourm_engine.sweep.sweep import Sweep

    _run(Sweep(file, overrides or (), print_fn=warn), show_results, jobs, dry_run, report, as_json)


def _run(
    study: Sweep | Suite, table: Callable[[Any], None], jobs: int, dry_run: bool, report: bool, as_json: bool
) -> None:
    """Run, check or report as the options say, and print the results by `table` or as JSON. Exit code 1 where every
    trial failed."""
    from fourm_engine.sweep.folder import FAILED

    if dry_run:
        for trial in study.trials:
            outcome = study.folder.outcome(trial)
            typer.echo(f"{trial.folder}: {'to be done' if outcome is None else outcome.state}")
        return
    results = study.report() if report else study.run(jobs=jobs)
    if as_json:
        typer.echo(json.dumps(results.to_json(), indent=1, default=str))
    else:
        table(results)
    states = {outcome.state for trial in study.trials if (outcome := study.folder.outcome(trial)) is not None}
    if not report and states == {FAILED}:
        raise typer.Exit(1)


def show_results(report: Results) -> None:
    from fourm_engine.sweep.results import table_of

    columns, rows = table_of(report)
    if not any(row[-1] for row in rows):  # no errors
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    table = Table(*columns)
    for row in rows:
        table.add_row(*row)
    show([table], list(map(printable, report.notes)))


def suite(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A suite file; see docs/sweeps.md.")],
    overrides: Overrides = None,
    *,
    jobs: Jobs = 1,
    dry_run: DryRun = False,
    report: Report = False,
    as_json: Json = False,
) -> None:
    """Run the missing trials of a suite (encoders x tasks x seeds), and compare all. Start it again to resume."""
    from fourm_engine.recipes.progress import warn
    from fourm_engine.sweep.suite import Suite

    study, root = Suite(file, overrides or (), print_fn=warn), context.find_root()
    assert isinstance(root.command, TyperGroup)
    study.check_commands(root.command.list_commands(root))
    _run(study, lambda results: show_suite(results, list(study.config.encoders)), jobs, dry_run, report, as_json)


def show_suite(results: SuiteResults, encoders: list[str]) -> None:
    from fourm_engine.sweep.results import spread

    heads = [f"{label}: {r.measure.key} ({r.measure.goal})" for label, r in results.tasks.items()]
    ranks = results.mean_ranks()
    table = Table("encoder", *heads, "mean rank")
    for name in [*ranks, *(encoder for encoder in encoders if encoder not in ranks)]:
        groups = [results.group(task, name) for task in results.tasks]
        cells = [f"{spread(group)} (rank {group.rank})" if group and group.rank else "" for group in groups]
        table.add_row(name, *cells, f"{ranks[name]:.3g}" if name in ranks else "")
    show([table], list(map(printable, results.notes)))

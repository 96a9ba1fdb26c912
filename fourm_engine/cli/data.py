"""`fourm data`: check, show, index, pack and unpack a data set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fourm_engine.cli.options import Config, Overrides
from fourm_engine.cli.tables import Table
from fourm_engine.cli.tables import show as show_tables
from fourm_plugins.counting import counted

if TYPE_CHECKING:
    from fourm_engine.data.checks.check import DataCheck

app = typer.Typer(no_args_is_help=True, help="Check, show and index data; pack it into WebDataset shards, unpack it.")
#: Names shown per finding on the terminal.
SHOWN = 5

Folder = Annotated[str, typer.Argument(help="A folder, tars (data/shard-{00..09}.tar), or NAME:LOCATION of a package.")]
Out = Annotated[Path, typer.Argument(help="Folder to write to.")]
Modality = Annotated[list[str] | None, typer.Option(metavar="MODALITY", help="Read only this modality; repeatable.")]
Reading = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Config that names the modalities and their folders.")
]


@app.command("check")
def check(
    source: Annotated[str, typer.Argument(help="Config, folder of data or tokens, tars, or NAME:LOCATION.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="Settings in place of the config's; for a folder only modalities.settings.NAME.KEY=VALUE.",
        ),
    ] = None,
    *,
    samples: Annotated[int | None, typer.Option(min=1, help="Samples to read of each part. Default: all.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed that draws the samples to read and show.")] = 0,
    workers: Annotated[
        int | None, typer.Option(min=0, max=256, help="Processes that read. Default: one per core.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the whole report to this file.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write report.html and sheet.png to this folder.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 for notes as well.")] = False,
) -> None:
    """Check every file of a data set. Prints counts, sizes and statistics, and whatever is damaged, missing, unused,
    duplicated, leaked or misaligned. Exit code 1 if training would stop or lose data."""
    from fourm_engine.data.raw.root import is_pattern
    from fourm_engine.device import usable_cores
    from fourm_engine.evaluate.data_report import write_report
    from fourm_engine.files import write_atomically
    from fourm_engine.recipes import data_check as recipe
    from fourm_engine.recipes.config import load_config
    from fourm_engine.recipes.progress import warn
    from fourm_engine.storage.url import Url, parse, scheme_of
    from fourm_plugins.hub import FILES, check_there

    workers = usable_cores() if workers is None else workers
    read: dict[str, Any] = {"samples": samples, "seed": seed, "workers": workers}
    if isinstance(parse(source), Url):
        raise ValueError(f"{source}: remote data is checked through a config that names it; set data.train to this URL")
    path = Path(source)
    if not (scheme_of(source) or is_pattern(path) or path.suffix in FILES):
        check_there(path)
    if path.is_dir() and recipe.is_tokens(path):
        result = recipe.check_tokens(path)
    elif path.is_dir() or (scheme_of(source) and not path.exists()) or is_pattern(path):
        settings = recipe.settings_of(overrides or [])
        result = recipe.check_folder(path if path.is_dir() else source, settings, print_fn=warn, **read)
    else:
        result = recipe.check_config(load_config(path, overrides or [], needed=()), print_fn=warn, **read)
    print_check(result)
    if json_file is not None:
        write_atomically(json_file, json.dumps(result.to_json(), indent=1, ensure_ascii=False) + "\n")
        print(json_file)
    for path in write_report(report, result, title=f"Data check of {source}") if report is not None else ():
        print(path)
    if result.problems or (strict and result.findings):
        raise typer.Exit(1)


def print_check(result: DataCheck) -> None:
    """Print tables, then the findings with problems last, next to the prompt."""
    from fourm_engine.data.raw.names import shown
    from fourm_engine.evaluate.data_report import describe_item, tables

    for title, columns, rows in tables(result):
        table = Table(*columns, title=title)
        for row in rows:
            table.add_row(*row)
        show_tables([table])
    for part in result.parts:
        some = len(part.read) < len(part.names)
        read = f", of which {len(part.read):,} were read (seed {result.seed})" if some else ""
        print(f"{part.name}: {counted(len(part.names), 'sample')} of {shown(part.wanted.root)}{read}")
    for finding in (*result.notes, *result.problems):
        print(f"{finding.level}: {finding.kind}: {finding.message}")
        for item in finding.listed.items[1:SHOWN] if finding.level == "problem" else ():
            print(f"    {describe_item(item)}")
        if finding.level == "problem" and finding.listed.count > SHOWN:
            print(f"    … {finding.listed.count - SHOWN} more (--json lists them)")
        if finding.remedy:
            print(f"  → {finding.remedy}")
    print(f"{counted(len(result.problems), 'problem')}, {counted(len(result.notes), 'note')}")


@app.command("show")
def show(
    config: Config,
    name: Annotated[str, typer.Argument(help="A sample's name, or one of its files.")],
    overrides: Overrides = None,
    *,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the sheet to this PNG file.")] = None,
    view: Annotated[int | None, typer.Option(min=0, help="Show this view instead of the one drawn.")] = None,
    epoch: Annotated[int, typer.Option(min=0, help="Epoch of which the mask is shown.")] = 0,
    seed: Annotated[int | None, typer.Option(min=0, help="Of order, views and masks. Default: the config's.")] = None,
) -> None:
    """Show one sample as a run sees it: the crop, the model's view, the decoded tokens, and the mask of input and
    target tokens."""
    from fourm_engine.drawing import png
    from fourm_engine.files import write_atomically
    from fourm_engine.recipes.config import load_config
    from fourm_engine.recipes.data_show import show as recipe

    if out is not None and out.suffix.lower() != ".png":
        raise ValueError(f"--out {out}: the sheet is a .png; change the extension")
    sample = recipe(load_config(config, overrides or [], needed=()), name, view=view, epoch=epoch, seed=seed)
    for line in sample.lines():
        print(line)
    if out is not None:
        write_atomically(out, png(sample.picture()))
        print(out)


@app.command()
def index(folder: Folder, *, modality: Modality = None, config: Reading = None) -> None:
    """Write FOLDER/_index/, so that commands start without scanning the data set."""
    from fourm_engine.recipes import data_sets

    data_sets.index(folder, modalities=modality or (), config=config)


@app.command()
def pack(
    folder: Folder,
    out: Out,
    *,
    samples_per_shard: Annotated[int, typer.Option(help="Samples of one tar.")] = 1000,
    modality: Modality = None,
    config: Reading = None,
) -> None:
    """Write WebDataset shards, tars that hold all modalities of their samples. Resumes when interrupted."""
    from fourm_engine.recipes import data_sets

    data_sets.pack(folder, out, samples_per_shard=samples_per_shard, modalities=modality or (), config=config)


@app.command()
def unpack(folder: Folder, out: Out, *, modality: Modality = None, config: Reading = None) -> None:
    """Write a folder per modality with a file per sample. Resumes when interrupted."""
    from fourm_engine.recipes import data_sets

    data_sets.unpack(folder, out, modalities=modality or (), config=config)

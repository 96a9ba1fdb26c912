"""`fourm embed`: features of a data set, as an index; `fourm search`: its samples nearest to a query."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fourm_engine.cli.options import Device, Run, values


def embed(
    run: Run,
    folder: Annotated[str, typer.Argument(help="Folder of data, as data.train of a config names one.")],
    given: Annotated[list[str], typer.Option("--input", help="Modality to show the encoder; repeat it.")],
    out: Annotated[Path, typer.Option(help="Folder for the index; an earlier one there is replaced.")],
    batch_size: Annotated[int, typer.Option(min=1, help="Samples at a time.")] = 32,
    device: Device = None,
) -> None:
    """Write a feature of every sample of a data set: the mean of the encoder's over its tokens."""
    from fourm_engine.recipes import embed as recipe

    recipe.embed(run, folder, given, out, batch_size=batch_size, device=device)


def search(
    index: Annotated[Path, typer.Argument(help="Folder that `fourm embed` wrote.")],
    run: Run,
    query: Annotated[
        list[str],
        typer.Option(help="NAME=FILE, or what can be typed, NAME=words; NAME=text:words is never a path. Repeat it."),
    ],
    k: Annotated[int, typer.Option("-k", min=1, help="How many samples.")] = 5,
    device: Device = None,
) -> None:
    """Print the samples of an index nearest to a query, each with its cosine, the nearest first."""
    sample = values("--query", query)

    from fourm_engine.recipes import embed as recipe

    recipe.search(index, run, sample, k=k, device=device)

"""`fourm embed`: features of a data set, as an index; `fourm search`: its samples nearest to a query, and how well one
index finds the samples of another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fourm_engine.cli.options import Device, Run, Sizes, sizes, values
from fourm_engine.cli.tables import new_table, show


def embed(
    run: Run,
    folder: Annotated[str, typer.Argument(help="Folder of data, as data.train of a config names one.")],
    given: Annotated[list[str], typer.Option("--input", help="Modality to show the encoder; repeat it.")],
    out: Annotated[Path, typer.Option(help="Folder for the index; an earlier one there is replaced.")],
    split: Annotated[str | None, typer.Option(help="List of the folder's splits.json that is taken.")] = None,
    predict: Annotated[
        str | None,
        typer.Option(
            help="Modality with a feature a token: index its features as the model predicts them from --input, or, of "
            "that modality itself as --input, as they are."
        ),
    ] = None,
    size: Sizes = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples at a time.")] = 32,
    device: Device = None,
) -> None:
    """Write a feature of every sample of a data set: the mean of the encoder's over its tokens."""
    chosen = sizes(size)

    from fourm_engine.recipes import embed as recipe

    recipe.embed(
        run, folder, given, out, split=split, predict=predict, size=chosen, batch_size=batch_size, device=device
    )


def search(
    index: Annotated[Path, typer.Argument(help="Folder that `fourm embed` wrote.")],
    run: Annotated[str | None, typer.Argument(help="The run or model that made it, with --query.")] = None,
    query: Annotated[
        list[str] | None,
        typer.Option(help="NAME=FILE, or what can be typed, NAME=words; NAME=text:words is never a path. Repeat it."),
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many samples.")] = 5,
    queries: Annotated[
        Path | None,
        typer.Option(
            "--evaluate",
            help="Another index: how well INDEX finds each of its samples by its feature there.",
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="JSON {sample: class} or CSV sample,class: right is every other sample of the class."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file for what --evaluate measures.")] = None,
    device: Device = None,
) -> None:
    """Print the samples of an index nearest to a query, the nearest first; or how well it finds those of another."""
    if queries is None:
        if run is None or not query:
            raise ValueError("search: give a run and --query NAME=…, or --evaluate and another index")
        if labels is not None or out is not None:
            raise ValueError("--labels and --out are of --evaluate; leave them out")
        sample = values("--query", query)

        from fourm_engine.recipes import embed as recipe

        recipe.search(index, run, sample, k=k, device=device)
        return
    if query or run is not None:
        raise ValueError("--evaluate: compares two indexes; leave the run and --query out")

    from fourm_engine.recipes import embed as recipe

    result = recipe.evaluate(index, queries, labels=labels, out=out)
    table = new_table("", *(f"recall@{k}" for k in result.chance.recall), "nDCG")
    for name, found in (("cosine", result.plain), ("cosine, centred", result.centred), ("chance", result.chance)):
        table.add_row(name, *(f"{share:.3f}" for share in found.recall.values()), f"{found.ndcg:.3f}")
    show([table], [f"{result.queries} queries, {result.candidates} candidates"])

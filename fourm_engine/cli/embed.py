"""`fourm embed`: index the features of a data set. `fourm search`: find the samples nearest to a query, or compute
retrieval metrics of one index against another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fourm_engine.cli.options import Device, Run, Sizes, sizes, values
from fourm_engine.cli.tables import Table, show


def embed(
    run: Run,
    folder: Annotated[str, typer.Argument(help="A data set, like data.train of a config.")],
    given: Annotated[list[str], typer.Option("--input", metavar="MODALITY", help="Input modality; repeatable.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for the index; replaces an earlier one.")],
    split: Annotated[str | None, typer.Option(metavar="NAME", help="List in the folder's splits.json.")] = None,
    predict: Annotated[
        str | None,
        typer.Option(
            metavar="MODALITY",
            help="Index features that the model predicts for this modality of features, or, with the same "
            "--input, the features in the data.",
        ),
    ] = None,
    size: Sizes = None,
    alternatives: Annotated[
        bool,
        typer.Option("--alternatives", help="A feature for each alternative of a sample, such as its five captions."),
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, max=10_000, help="Samples per batch.")] = 32,
    device: Device = None,
) -> None:
    """Write one feature per sample of a data set: the encoder's mean over its tokens, or the embedding of a retrieval
    task."""
    chosen = sizes(size)

    from fourm_engine.recipes import embed as recipe

    recipe.embed(
        run,
        folder,
        given,
        out,
        split=split,
        predict=predict,
        size=chosen,
        alternatives=alternatives,
        batch_size=batch_size,
        device=device,
    )


def search(
    index: Annotated[Path, typer.Argument(help="An index written by `fourm embed`.")],
    run: Annotated[str | None, typer.Argument(help="With --query: the run or model that made the index.")] = None,
    query: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="NAME=FILE or NAME=words; NAME=text:words is never a path. Repeatable."
        ),
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Number of results.")] = 5,
    queries: Annotated[
        Path | None,
        typer.Option(
            "--evaluate", metavar="FOLDER", help="Another index, whose samples are searched in INDEX and scored."
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="JSON {sample: class} or CSV sample,class: all samples of the class are right."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="JSON file for the metrics of --evaluate.")] = None,
    device: Device = None,
) -> None:
    """Print the samples of an index nearest to a query; or, with --evaluate, retrieval metrics."""
    if queries is None:
        if run is None or not query:
            raise ValueError("search: give a run and --query NAME=…, or --evaluate and another index")
        if labels is not None or out is not None:
            raise ValueError("--labels and --out need --evaluate; add it, or leave them out")
        sample = values("--query", query)

        from fourm_engine.recipes import embed as recipe

        recipe.search(index, run, sample, k=k, device=device)
        return
    if query or run is not None:
        raise ValueError("--evaluate: compares two indexes; leave the run and --query out")

    from fourm_engine.recipes import embed as recipe

    result = recipe.evaluate(index, queries, labels=labels, out=out)
    table = Table("", *(f"recall@{k}" for k in result.chance.recall), "nDCG")
    for name, scores in (("cosine", result.plain), ("cosine, centred", result.centred), ("chance", result.chance)):
        table.add_row(name, *(f"{share:.3f}" for share in scores.recall.values()), f"{scores.ndcg:.3f}")
    show([table], [f"{result.queries:,} queries, {result.candidates:,} candidates"])

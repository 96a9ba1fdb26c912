"""`fourm data …`: what a data set holds, and in which format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

app = typer.Typer(
    no_args_is_help=True, help="Index or check data; pack it into WebDataset shards and unpack them."
)

Folder = Annotated[Path, typer.Argument(help="Folder of a data set, or a pattern such as data/shard-{00..09}.tar.")]
Out = Annotated[Path, typer.Argument(help="Folder to write to.")]
Modality = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(help="A modality to read, in place of all that are installed; repeat it."),
]


@app.command()
def index(folder: Folder, *, modality: Modality = None) -> None:
    """Write FOLDER/_index/, so that a start need not look for the samples: only what has changed is scanned again."""
    from fourm_engine.recipes import data_sets

    data_sets.index(folder, modalities=modality or ())


@app.command()
def check(folder: Annotated[Path, typer.Argument(help="Folder of tokens, such as data.tokens of a config.")]) -> None:
    """Read all token shards of FOLDER, and name those that are damaged or do not belong together."""
    from fourm_engine.recipes import data_check

    data_check.check(folder)


@app.command()
def pack(
    folder: Folder,
    out: Out,
    *,
    samples_per_shard: Annotated[int, typer.Option(help="Samples of one tar.")] = 1000,
    modality: Modality = None,
) -> None:
    """Write WebDataset shards, tars that hold all modalities of their samples. Continues where it was stopped."""
    from fourm_engine.recipes import data_sets

    data_sets.pack(folder, out, samples_per_shard=samples_per_shard, modalities=modality or ())


@app.command()
def unpack(folder: Folder, out: Out, *, modality: Modality = None) -> None:
    """Write a folder for each modality, with a file for each sample. Continues where it was stopped."""
    from fourm_engine.recipes import data_sets

    data_sets.unpack(folder, out, modalities=modality or ())

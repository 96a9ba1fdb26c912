"""`fourm edit`: a part of a sample anew, under a mask or after a change of something else."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fourm_engine.cli.generating import generates
from fourm_engine.cli.options import Given, Out, Run, values


@generates
def edit(
    run: Run,
    given: Given,
    out: Out = None,
    mask: Annotated[
        Path | None, typer.Option(help="A picture as large as those of the sample, white where they are to change.")
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option(help="NAME=FILE, NAME=words or NAME=JSON: the new value, which the rest follows; repeat it."),
    ] = None,
    keep: Annotated[list[str] | None, typer.Option(help="Modality of --input that stays as it is; repeat it.")] = None,
    halo: Annotated[
        int | None, typer.Option(min=0, help="Tokens around the mask that are generated anew, too; 1 by default.")
    ] = None,
    options: Any = None,
) -> None:
    """Edit a sample: its pictures under --mask, or all that follows from what --change says."""
    sample = values("--input", given)
    changes: dict[str, Any] = {"mask": mask, "change": values("--change", change), "keep": keep or (), "halo": halo}

    from fourm_engine.recipes import generate as recipe

    recipe.generate(run, sample, (), out, edit=changes, **options)

"""`fourm edit`: regenerate part of a sample, under a mask, beyond its edges, or after a change."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fourm_engine.cli.generation_options import generates, numbers
from fourm_engine.cli.options import Given, Out, Run, values


@generates
def edit(
    run: Run,
    given: Given,
    out: Out = None,
    mask: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A picture of the sample's size, white where to change.")
    ] = None,
    outpaint: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE", help="SHARE, or LEFT,TOP,RIGHT,BOTTOM: continue beyond the edges, by shares of the size."
        ),
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="NAME=FILE, NAME=words or NAME=JSON: a new value, which the rest follows; repeatable.",
        ),
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="An input to leave unchanged; repeatable.")
    ] = None,
    halo: Annotated[int | None, typer.Option(min=0, help="Tokens around the mask to change, too. Default: 1.")] = None,
    animate: Annotated[
        Path | None, typer.Option(metavar="FILE", help="FILE.gif or .png (APNG): animate the (first) sample.")
    ] = None,
    options: Any = None,
) -> None:
    """Edit a sample: regenerate its pictures under --mask, continue them beyond their edges (--outpaint), or regenerate
    everything that --change affects."""
    if mask is None and outpaint is None and not change:
        raise ValueError("nothing to edit; give --mask FILE, --outpaint SHARE, or --change NAME=VALUE")
    if mask is None and outpaint is None and halo is not None:
        raise ValueError("--halo has no effect without --mask or --outpaint; leave it out")
    sample = values("--input", given)
    changes: dict[str, Any] = {"outpaint": None if outpaint is None else numbers("--outpaint", outpaint)}
    changes |= {"mask": mask, "change": values("--change", change), "keep": keep or (), "halo": halo}

    from fourm_engine.recipes import generate as recipe

    recipe.generate(run, sample, (), out, edit=changes, animate=animate, **options)

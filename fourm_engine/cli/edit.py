"""`fourm edit`: regenerate part of samples, under a mask, beyond their edges, or after a change."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fourm_engine.cli.command_setup import idle
from fourm_engine.cli.generation_options import generates, numbers
from fourm_engine.cli.options import Given, ManyBatchSize, ManyWorkers, Out, Run, part_of, values


@generates
def edit(
    run: Run,
    given: Given,
    out: Out = None,
    mask: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="A picture of the sample's size, white where to change; or a folder of these."
        ),
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
    paste: Annotated[
        bool,
        typer.Option(
            "--paste", help="Results of the inputs' size: the generated part, enlarged, in otherwise unchanged files."
        ),
    ] = False,
    with_inputs: Annotated[
        bool, typer.Option("--with-inputs", help="For folders: also write the other inputs, as the model sees them.")
    ] = False,
    share: Annotated[
        str | None, typer.Option(metavar="K/N", help="For folders: K/N, process part K (from 0) of N.")
    ] = None,
    batch_size: ManyBatchSize = None,
    workers: ManyWorkers = None,
    animate: Annotated[
        Path | None, typer.Option(metavar="FILE", help="FILE.gif or .png (APNG): animate the (first) sample.")
    ] = None,
    options: Any = None,
) -> None:
    """Edit a sample: regenerate its pictures under --mask, continue them beyond their edges (--outpaint), or regenerate
    everything that --change affects. With folders, it writes a data set with a result for every sample; the same
    command resumes, torchrun or --share divide the work."""
    if mask is None and outpaint is None and not change:
        raise ValueError("nothing to edit; give --mask FILE, --outpaint SHARE, or --change NAME=VALUE")
    for option, value in (("--halo", halo), ("--paste", paste or None)):
        if mask is None and outpaint is None and value is not None:
            raise ValueError(f"{option} has no effect without --mask or --outpaint; leave it out")
    sample, changed = values("--input", given), values("--change", change)
    edits: dict[str, Any] = {"outpaint": None if outpaint is None else numbers("--outpaint", outpaint)}
    edits |= {"mask": mask, "change": changed, "keep": keep or (), "halo": halo}
    many: dict[str, Any] = {"with_inputs": with_inputs or None, "batch_size": batch_size, "workers": workers}
    many |= {"share": None if share is None else part_of("--share", share)}
    many = {name: value for name, value in many.items() if value is not None}

    from fourm_engine.recipes.edit_many import edit_many
    from fourm_engine.recipes.generate import generate
    from fourm_engine.recipes.open_inputs import is_folder

    if any(map(is_folder, [mask, *sample.values(), *changed.values()])):
        for option, single in (("explain", options.pop("explain")), ("animate", animate)):
            if single:
                raise ValueError(f"--{option} is for one sample, not for folders; leave it out")
        if out is None:
            raise ValueError("--out is missing; name the folder for the results")
        edit_many(run, sample, out, paste=paste, samples=options.pop("n_samples"), **edits, **many, **options)
    elif many:
        option = next(iter(many)).replace("_", "-")
        raise ValueError(f"--{option} is for many samples; give a folder as --input, --change or --mask")
    elif not idle("edit, without many samples,"):
        generate(run, sample, (), out, edit=edits, paste=paste, animate=animate, **options)

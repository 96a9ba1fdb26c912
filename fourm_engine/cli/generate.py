"""`fourm generate`: any modalities in, any modalities out, as files of each modality's format and as pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fourm_engine.cli.command_setup import idle
from fourm_engine.cli.generation_options import generates
from fourm_engine.cli.options import Given, ManyBatchSize, ManyWorkers, Out, Run, Split, given_values, part_of


@generates
def generate(
    run: Run,
    out: Out = None,
    given: Given = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODALITY", help="Modality to generate; repeatable, in order. Default: all that are not inputs."
        ),
    ] = None,
    animate: Annotated[
        Path | None, typer.Option(metavar="FILE", help="FILE.gif or .png (APNG): animate the sample.")
    ] = None,
    overlap: Annotated[
        int | None,
        typer.Option(min=0, help="A picture larger than the model sees, in tiles that share this many tokens."),
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar="DATA", help="A data set; its inputs are --input NAME, without a value.")
    ] = None,
    split: Split = None,
    lines: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help='JSON lines, one per sample: {"NAME": "FILE or words", "seed": 3, "name": "a"}.'
        ),
    ] = None,
    with_inputs: Annotated[
        bool, typer.Option("--with-inputs", help="For many samples: also write the inputs, as the model sees them.")
    ] = False,
    beside: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="NAME",
            help="A further modality of --data to write through the same crop, such as the target of a task; "
            "repeatable.",
        ),
    ] = None,
    share: Annotated[
        str | None, typer.Option(metavar="K/N", help="For many samples: K/N, process part K (from 0) of N.")
    ] = None,
    batch_size: ManyBatchSize = None,
    workers: ManyWorkers = None,
    options: Any = None,
) -> None:
    """Generate modalities from others with a trained model. With a folder, --data or --lines, it writes a data set with
    a result for every sample; the same command resumes, torchrun or --share divide the work."""
    inputs = given_values(given, bare=data is not None)
    many: dict[str, Any] = {
        "data": data,
        "lines": lines,
        "split": split,
        "with_inputs": with_inputs or None,
        "beside": beside or None,
        "share": None if share is None else part_of("--share", share),
        "batch_size": batch_size,
        "workers": workers,
    }
    many = {name: value for name, value in many.items() if value is not None}

    from fourm_engine.recipes.generate import generate as one_sample
    from fourm_engine.recipes.generate_many import generate_many
    from fourm_engine.recipes.open_inputs import is_folder

    if data is not None or lines is not None or any(map(is_folder, inputs.values())):
        one = {"explain": options.pop("explain") or None, "animate": animate, "overlap": overlap}
        for option, value in one.items():
            if value is not None:
                raise ValueError(f"--{option} is for one sample, not for a folder, --data or --lines; leave it out")
        if out is None:
            raise ValueError("--out is missing; name the folder for the results")
        generate_many(run, inputs, target or (), out, samples=options.pop("n_samples"), **many, **options)
    elif many:
        option = next(iter(many)).replace("_", "-").replace("beside", "with")
        raise ValueError(f"--{option} is for many samples; give a folder as --input NAME=FOLDER, --data or --lines")
    elif not idle("generate, without many samples,"):
        one_sample(run, inputs, target or None, out, animate=animate, overlap=overlap, **options)

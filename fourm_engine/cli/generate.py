"""`fourm generate`: any modalities in, any modalities out, as files of each modality's own format and as pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fourm_engine.cli.generating import generates
from fourm_engine.cli.options import Given, Out, Run, part_of, values


@generates
def generate(
    run: Run,
    out: Out = None,
    given: Given = None,
    target: Annotated[
        list[str] | None,
        typer.Option(help="Modality to generate; repeat it, in the order wanted. By default all that is not given."),
    ] = None,
    animate: Annotated[
        Path | None, typer.Option(help="FILE.gif or FILE.png (APNG): the sample after each step of its generation.")
    ] = None,
    overlap: Annotated[
        int | None,
        typer.Option(
            min=0, help="Of a picture larger than the model sees: tile by tile, so many tokens of neighbours the same."
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="A data set, of which --input NAME, without a value, says what is given.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="List of samples in splits.json of --data.")] = None,
    lines: Annotated[
        Path | None, typer.Option(help='JSON lines, one a sample: {"NAME": "FILE or words", "seed": 3, "name": "a"}.')
    ] = None,
    with_inputs: Annotated[
        bool, typer.Option("--with-inputs", help="Of many samples: write the inputs, too, as the model sees them.")
    ] = False,
    share: Annotated[str | None, typer.Option(help="K/N, of many samples: part K of N, from 0 on.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Of many samples: how many run together; 16.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Of many samples: processes that read and decode ahead.")
    ] = None,
    options: Any = None,
) -> None:
    """Generate modalities from others with a trained model. With a folder, --data or --lines for every sample, into a
    data set: the same command continues what was stopped, torchrun or --share divide it."""
    named = [text for text in given or () if "=" in text or data is None]
    inputs = values("--input", named) | dict.fromkeys(text for text in given or () if text not in named)
    many: dict[str, Any] = {
        "data": data,
        "lines": lines,
        "split": split,
        "with_inputs": with_inputs or None,
        "share": None if share is None else part_of("--share", share),
        "batch_size": batch_size,
        "workers": workers,
    }
    many = {name: value for name, value in many.items() if value is not None}

    from fourm_engine.recipes.generate import generate as one_sample
    from fourm_engine.recipes.generate_many import generate_many, is_folder

    if data is not None or lines is not None or any(map(is_folder, inputs.values())):
        for option in ("reduce", "explain"):
            if options.pop(option):
                raise ValueError(f"--{option} is for one sample, not for a folder, --data or --lines; leave it out")
        for option, value in (("animate", animate), ("overlap", overlap)):
            if value is not None:
                raise ValueError(f"--{option} is for one sample, not for a folder, --data or --lines; leave it out")
        if out is None:
            raise ValueError("--out is missing; name the folder for the results")
        generate_many(run, inputs, target or (), out, samples=options.pop("n_samples"), **many, **options)
    elif many:
        option = next(iter(many)).replace("_", "-")
        raise ValueError(f"--{option} is for many samples; give a folder as --input NAME=FOLDER, --data or --lines")
    else:
        one_sample(run, inputs, target or None, out, animate=animate, overlap=overlap, **options)

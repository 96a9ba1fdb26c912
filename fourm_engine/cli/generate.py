"""`fourm generate`: any modalities in, any modalities out, as files of each modality's own format and as pictures."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from fourm_engine.cli.options import (
    Device,
    Disable,
    Given,
    Guidance,
    Out,
    Providers,
    Run,
    Samples,
    Seed,
    Steps,
    Temperature,
    Tokenizers,
    TopK,
    TopP,
    pairs,
    part_of,
    values,
)


def generate(
    run: Run,
    target: Annotated[list[str], typer.Option(help="Modality to generate; repeat it, in the order wanted.")],
    out: Out,
    given: Given = None,
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
    seed: Seed = 0,
    samples: Samples = 1,
    steps: Steps = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    guidance: Guidance = None,
    device: Device = None,
    tokenizer: Tokenizers = None,
    provider: Providers = None,
    disable: Disable = None,
) -> None:
    """Generate modalities from others with a trained model. With a folder, --data or --lines for every sample, into a
    data set: the same command continues what was stopped, torchrun or --share divide it."""
    named = [text for text in given or () if "=" in text or data is None]
    inputs = values("--input", named) | dict.fromkeys(text for text in given or () if text not in named)
    tokenizers = pairs("--tokenizer", tokenizer, "MODALITY=PLACE")
    providers = pairs("--provider", provider, "NAME=DISTRIBUTION")
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
        recipe: Any = partial(generate_many, **many)
    elif many:
        option = next(iter(many)).replace("_", "-")
        raise ValueError(f"--{option} is for many samples; give a folder as --input NAME=FOLDER, --data or --lines")
    else:
        recipe = one_sample
    recipe(
        run,
        inputs,
        target,
        out,
        seed=seed,
        samples=samples,
        device=device,
        tokenizers=tokenizers,
        providers=providers,
        disable=disable or (),
        steps=steps,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        guidance=guidance,
    )

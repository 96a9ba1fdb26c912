"""`fourm generate`: any modalities in, any modalities out, as files of each modality's own format and as pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fourm_engine.cli.options import Disable, Providers, pairs

#: Before what is text, whatever it looks like.
TEXT = "text:"


def generate(
    run: Annotated[str, typer.Argument(help="Folder of a run or of an exported model, or a Hub id.")],
    target: Annotated[list[str], typer.Option(help="Modality to generate; repeat it, in the order wanted.")],
    out: Annotated[Path, typer.Option(help="Folder for the results.")],
    given: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            help="NAME=FILE, such as picture=photo.jpg; or what can be typed, NAME=words or NAME=JSON. What looks like "
            "a path is one and must exist; NAME=text:words is never one. Repeat it.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of what is drawn; same seed, same result.")] = 0,
    samples: Annotated[int, typer.Option(min=1, help="How many answers, drawn with seeds from --seed on.")] = 1,
    steps: Annotated[int | None, typer.Option(min=1, help="Decoding steps of grids.")] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, help="0 takes the likeliest tokens; above it, they are drawn.")
    ] = None,
    top_p: Annotated[float | None, typer.Option(min=0, max=1, help="Nucleus sampling.")] = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="Draw from the k likeliest.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance weight; 1 is plain.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; by default a GPU if there is one.")] = None,
    tokenizer: Annotated[
        list[str] | None, typer.Option(help="MODALITY=PLACE of a tokenizer that the model comes without; repeat it.")
    ] = None,
    provider: Providers = None,
    disable: Disable = None,
) -> None:
    """Generate modalities from others with a trained model."""
    parts = pairs("--input", given, "NAME=FILE, NAME=words, NAME=JSON or NAME=text:words")
    tokenizers = pairs("--tokenizer", tokenizer, "MODALITY=PLACE")
    providers = pairs("--provider", provider, "NAME=DISTRIBUTION")

    from fourm_engine.generate import Typed
    from fourm_engine.recipes import generate as recipe

    recipe.generate(
        run,
        {name: Typed(text[len(TEXT) :]) if text.startswith(TEXT) else text for name, text in parts.items()},
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

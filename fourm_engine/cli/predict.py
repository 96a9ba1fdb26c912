"""`fourm predict`: what a model that learned a task says of a sample."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fourm_engine.cli.options import Device, Given, values


def predict(
    run: Annotated[Path, typer.Argument(help="Folder of a run of `fourm finetune`, or its best/.")],
    given: Given = None,
    out: Annotated[Path | None, typer.Option(help="Folder for a map that is predicted.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many classes to tell.")] = 5,
    device: Device = None,
) -> None:
    """Print the likeliest classes of a sample with their probabilities, or write the map that is predicted."""
    sample = values("--input", given)

    from fourm_engine.recipes import predict_task as recipe

    recipe.predict(run, sample, out=out, k=k, device=device)

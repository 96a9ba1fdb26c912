"""`fourm predict`: classes or a map for one sample, by a model trained on a task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fourm_engine.cli.options import Device, Given, values


def predict(
    run: Annotated[Path, typer.Argument(help="Folder of a run of `fourm finetune`, or its best/.")],
    given: Given = None,
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Folder for a predicted map.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Number of classes to print.")] = 5,
    device: Device = None,
) -> None:
    """Print the most likely classes of a sample with probabilities, or write the predicted map."""
    sample = values("--input", given)

    from fourm_engine.recipes import predict_task as recipe

    recipe.predict(run, sample, out=out, k=k, device=device)

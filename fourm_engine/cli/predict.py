"""`fourm predict`: classes, a map or objects, by a model trained on a task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fourm_engine.cli.command_setup import idle
from fourm_engine.cli.options import Device, Given, ManyBatchSize, ManyWorkers, Split, given_values


def predict(
    run: Annotated[Path, typer.Argument(help="Folder of a run of `fourm finetune`, or its best/.")],
    given: Given = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder for a predicted map, or for the results of many.")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="Number of classes of a sample.")] = 5,
    data: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="A data set; --input NAME selects inputs. Default: all of the model's."),
    ] = None,
    split: Split = None,
    batch_size: ManyBatchSize = None,
    workers: ManyWorkers = None,
    device: Device = None,
) -> None:
    """Print the most likely classes of a sample with probabilities, or write the predicted map. With a folder or
    --data, it writes the results of every sample; the same command resumes."""
    inputs = given_values(given, bare=data is not None)
    many: dict[str, Any] = {"data": data, "split": split, "batch_size": batch_size, "workers": workers}
    many = {name: value for name, value in many.items() if value is not None}

    from fourm_engine.recipes.open_inputs import is_folder
    from fourm_engine.recipes.predict_many import predict_many
    from fourm_engine.recipes.predict_task import predict as one_sample

    if data is not None or any(map(is_folder, inputs.values())):
        if out is None:
            raise ValueError("--out is missing; name the folder for the results")
        predict_many(run, inputs, out, k=k, device=device, **many)
    elif many:
        option = next(iter(many)).replace("_", "-")
        raise ValueError(f"--{option} is for many samples; give a folder as --input NAME=FOLDER, or --data")
    elif not idle("predict, without many samples,"):
        one_sample(run, inputs, out=out, k=k, device=device)

"""`fourm export`: export a model's encoder to ONNX or torch.export."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from fourm_engine.cli.options import Run, Sizes, sizes


class Kind(str, Enum):
    onnx = "onnx"
    torch = "torch"


def export(
    run: Run,
    given: Annotated[
        list[str],
        typer.Option("--input", metavar="MODALITY", help="Input modality of the exported encoder; repeatable."),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="File to write or replace: .onnx, or .pt2 for torch.")],
    format: Annotated[Kind, typer.Option(help="ONNX, or a torch.export program.")] = Kind.onnx,
    size: Sizes = None,
) -> None:
    """Export the encoder as one file for any batch size, after checking its outputs to within 1e-4."""
    chosen = sizes(size)

    from fourm_engine.recipes import export as recipe

    recipe.export(run, given, out, format=format.value, size=chosen)

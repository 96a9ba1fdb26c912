"""`fourm export`: the encoder of a model as one file, for programs without this package."""

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
    given: Annotated[list[str], typer.Option("--input", help="Modality that the file takes; repeat it.")],
    out: Annotated[Path, typer.Option(help="File to write, .onnx or (torch) .pt2; replaced when it is there.")],
    format: Annotated[Kind, typer.Option(help="An ONNX graph, or a program of torch.export.")] = Kind.onnx,
    size: Sizes = None,
) -> None:
    """Write the encoder as one file, of any batch size, once its outputs equal the encoder's within 1e-4."""
    chosen = sizes(size)

    from fourm_engine.recipes import export as recipe

    recipe.export(run, given, out, format=format.value, size=chosen)

"""`fourm generate`: any modalities in, any modalities out, as files of each modality's own format and as pictures."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from fourm_engine.cli.generating import generates
from fourm_engine.cli.options import Given, Out, Run, values


@generates
def generate(
    run: Run,
    out: Out = None,
    given: Given = None,
    target: Annotated[
        list[str] | None,
        typer.Option(help="Modality to generate; repeat it, in the order wanted. By default all that is not given."),
    ] = None,
    options: Any = None,
) -> None:
    """Generate modalities from others with a trained model."""
    inputs = values("--input", given)

    from fourm_engine.recipes import generate as recipe

    recipe.generate(run, inputs, target or None, out, **options)

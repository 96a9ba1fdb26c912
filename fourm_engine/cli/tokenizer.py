"""`fourm tokenizer …`: `fit`, from raw files to fitted tokenizers, and `eval`, what their tokens keep."""

from __future__ import annotations

from typing import Annotated

import typer

from fourm_engine.cli import tokenizer_eval
from fourm_engine.cli.options import Config, Overrides

app = typer.Typer(help="Fit tokenizers and look at them.", no_args_is_help=True)
app.command("eval")(tokenizer_eval.evaluate)


@app.command("fit")
def fit(
    config: Config,
    overrides: Overrides = None,
    *,
    space: Annotated[list[str] | None, typer.Option(help="Only this token space; may be repeated.")] = None,
    jobs: Annotated[
        int, typer.Option(min=1, help="Token spaces fitted at the same time, a process each, spread over the GPUs.")
    ] = 1,
    refit: Annotated[bool, typer.Option(help="Replace tokenizers that were fitted under other settings.")] = False,
) -> None:
    """Fit the tokenizer of every token space; one that is up to date is kept, one half done goes on. Where a modality's
    settings are not those that its tokenizer was fitted under, an error says which."""
    from fourm_engine.recipes import fit as recipe
    from fourm_engine.recipes.config import load_config

    recipe.fit(load_config(config, overrides or []), spaces=space or (), jobs=jobs, refit=refit)

"""`fourm data …`: what is known of a data set without training on it."""

from __future__ import annotations

from typing import Annotated

import typer

from fourm_engine.cli.options import Config, Overrides

app = typer.Typer(no_args_is_help=True, help="Index and verify data.")


@app.callback()
def group() -> None:
    """Index and verify data."""


@app.command()
def index(
    config: Config,
    overrides: Overrides = None,
    *,
    verify: Annotated[bool, typer.Option("--verify", help="Read all token shards and compare their contents.")] = False,
) -> None:
    """Index the tokens of a config, as far as they are not, and say what they hold. `fourm tokenize` does so itself;
    this is for tokens that were copied."""
    from fourm_engine.recipes.config import load_config
    from fourm_engine.recipes.data_index import index_data

    index_data(load_config(config, overrides or []), verify=verify)

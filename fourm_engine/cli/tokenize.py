"""`fourm tokenize`: encode raw files into token shards."""

from __future__ import annotations

from typing import Annotated

import typer

from fourm_engine.cli.options import Config, Overrides


def tokenize(
    config: Config,
    overrides: Overrides = None,
    *,
    verify: Annotated[bool, typer.Option("--verify", help="Compare files by content, not size and time.")] = False,
    prune: Annotated[bool, typer.Option("--prune", help="Drop the tokens of files that have vanished.")] = False,
) -> None:
    """Tokenize the data sets of a config. Encodes new and changed files only; torchrun divides the shards."""
    from fourm_engine.recipes import tokenize as recipe
    from fourm_engine.recipes.config import load_config

    recipe.tokenize(load_config(config, overrides or []), verify=verify, prune=prune)

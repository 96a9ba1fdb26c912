"""`fourm tokenize`: from raw files and fitted tokenizers to token shards."""

from __future__ import annotations

from typing import Annotated

import typer

from fourm_engine.cli.options import Config, Overrides


def tokenize(
    config: Config,
    overrides: Overrides = None,
    *,
    verify: Annotated[bool, typer.Option("--verify", help="Compare files by content, not by size and time.")] = False,
    prune: Annotated[bool, typer.Option("--prune", help="Drop the tokens of files that have vanished.")] = False,
) -> None:
    """Turn the data sets of a config into token shards: what is new or has changed is encoded, the rest stays. Under
    torchrun the shards are shared out."""
    from fourm_engine.recipes import tokenize as recipe
    from fourm_engine.recipes.config import load_config

    recipe.tokenize(load_config(config, overrides or []), verify=verify, prune=prune)

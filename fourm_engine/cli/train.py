"""`fourm train`: one run, on one process or (through `torchrun -m fourm_engine.train`) on many."""

from __future__ import annotations

from fourm_engine.cli.options import Config, Overrides


def train(config: Config, overrides: Overrides = None) -> None:
    """Train the any-to-any model on token shards; continues from the newest checkpoint of the run."""
    from fourm_engine.recipes import train as recipe
    from fourm_engine.recipes.config import load_config

    needed = ("data.train", "data.val", "data.tokens", "tokenizers.folder")
    recipe.train(load_config(config, overrides or [], needed=needed))

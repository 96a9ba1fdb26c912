"""`fourm train`: one run, on one process or (through `torchrun -m fourm_engine.train`) on many."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer


def train(
    config: Annotated[Path, typer.Argument(help="YAML config.")],
    overrides: Annotated[Optional[list[str]], typer.Argument(help="section.key=value …")] = None,  # noqa: UP045
) -> None:
    """Train the any-to-any model on token shards; continues from the newest checkpoint of the run."""
    from fourm_engine.recipes.config import load_config
    from fourm_engine.recipes.train import train as run

    needed = ("data.train", "data.val", "data.tokens", "tokenizers.folder")
    run(load_config(config, overrides or [], needed=needed))

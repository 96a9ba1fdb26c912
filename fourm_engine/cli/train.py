"""`fourm train`: one run, on one process or (through `torchrun -m fourm_engine.train`) on many."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fourm_engine.cli.options import Config, Overrides


def train(
    config: Config,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what the run would be and cost; train nothing.")] = (
        False
    ),
    replay: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Compute a step again that was not finite, and say where that begins."),
    ] = None,
    mfu: Annotated[
        float | None, typer.Option(help="With --dry-run: utilisation to assume, a share of the peak; 0.4 by default.")
    ] = None,
    gpu: Annotated[str, typer.Option(help="With --dry-run: another GPU than this machine's, such as H100.")] = "",
    processes: Annotated[int | None, typer.Option(min=1, help="With --dry-run: devices that share the work.")] = None,
) -> None:
    """Train the any-to-any model on token shards; continues from the newest checkpoint of the run."""
    from fourm_engine.recipes.config import load_config

    if replay is not None and dry_run:
        raise ValueError("--replay and --dry-run exclude each other; leave one out")
    if dry_run:
        from fourm_engine.recipes.dry_run import dry_run as recipe_of_numbers

        mfu = 0.4 if mfu is None else mfu
        report = recipe_of_numbers(
            load_config(config, overrides or [], needed=()), mfu=mfu, gpu=gpu, processes=processes
        )
        typer.echo("\n".join(report.lines()))
        return
    if mfu is not None or gpu or processes is not None:
        raise ValueError("--mfu, --gpu and --processes are for --dry-run; add it, or leave them out")
    from fourm_engine.recipes import train as recipe

    needed = ("data.train", "data.val", "data.tokens", "tokenizers.folder")
    recipe.train(load_config(config, overrides or [], needed=needed), replay=replay)

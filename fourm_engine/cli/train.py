"""`fourm train`: train a model, on one process or (with `torchrun -m fourm_engine.train`) on many."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fourm_engine.cli.options import Config, Overrides


def train(
    config: Config,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what the run would cost; train nothing.")] = False,
    replay: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Replay a non-finite step, and find where it begins.")
    ] = None,
    mfu: Annotated[float | None, typer.Option(help="With --dry-run: share of the peak FLOP/s. Default: 0.4.")] = None,
    gpu: Annotated[
        str, typer.Option(metavar="NAME", help="With --dry-run: a GPU such as H100, instead of this machine's.")
    ] = "",
    processes: Annotated[int | None, typer.Option(min=1, help="With --dry-run: number of devices.")] = None,
) -> None:
    """Train an any-to-any model. Resumes from the newest checkpoint of the run."""
    from fourm_engine.recipes.config import load_config

    if replay is not None and dry_run:
        raise ValueError("--replay and --dry-run exclude each other; leave one out")
    if dry_run:
        from fourm_engine.recipes.dry_run import dry_run as estimate

        loaded = load_config(config, overrides or [], needed=())
        report = estimate(loaded, mfu=0.4 if mfu is None else mfu, gpu=gpu, processes=processes)
        typer.echo("\n".join(report.lines()))
        return
    if mfu is not None or gpu or processes is not None:
        raise ValueError("--mfu, --gpu and --processes are for --dry-run; add it, or leave them out")
    from fourm_engine.recipes import train as recipe

    needed = ("data.train", "data.val", "data.tokens", "tokenizers.folder")
    recipe.train(load_config(config, overrides or [], needed=needed), replay=replay)

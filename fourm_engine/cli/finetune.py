"""`fourm finetune`: train a head on the encoder of a trained model."""

from __future__ import annotations

from typing import Annotated

import typer

from fourm_engine.cli.options import Config, Overrides


def finetune(
    config: Config,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be learned; train nothing.")] = False,
) -> None:
    """Train an encoder with a head on a task (classification, segmentation, depth, detection, …). Resumes from the
    newest checkpoint. On several processes: torchrun … -m fourm_engine.cli finetune CONFIG."""
    from fourm_engine.recipes.task_config import load_task_config

    loaded = load_task_config(config, overrides or [])
    if dry_run:
        from fourm_engine.recipes.dry_run_task import dry_run as estimate

        return estimate(loaded)
    from fourm_engine.recipes.finetune_task import finetune as recipe

    recipe(loaded)

"""`fourm finetune`: train a head on the encoder of a trained model."""

from __future__ import annotations

from fourm_engine.cli.options import Config, Overrides


def finetune(config: Config, overrides: Overrides = None) -> None:
    """Train an encoder with a head on a task (classification, segmentation, depth, …). Resumes from the newest
    checkpoint. On several processes: torchrun … -m fourm_engine.cli finetune CONFIG."""
    from fourm_engine.recipes import finetune_task as recipe
    from fourm_engine.recipes.task_config import load_task_config

    recipe.finetune(load_task_config(config, overrides or []))

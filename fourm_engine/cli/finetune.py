"""`fourm finetune`: the encoder of a trained model learns a task."""

from __future__ import annotations

from fourm_engine.cli.options import Config, Overrides


def finetune(config: Config, overrides: Overrides = None) -> None:
    """Teach a trained model's encoder a task (classes, segmentation, depth, …); continues from the newest checkpoint of
    the run. On several processes: torchrun … -m fourm_engine.cli finetune CONFIG."""
    from fourm_engine.recipes import finetune_task as recipe
    from fourm_engine.recipes.task_config import load_task_config

    recipe.finetune(load_task_config(config, overrides or []))

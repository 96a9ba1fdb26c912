"""Trains a run that starts from another in float64: what then remains between one process and several is the order of
sums. `python double_run.py CONFIG`"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from unittest import mock

from fourm_engine.finetune.task import FinetuneTask
from fourm_engine.recipes.config import load_config
from fourm_engine.recipes.train import train
from tests.running import silent


def train_double(config: Path) -> None:
    meta_model, export = FinetuneTask.meta_model, FinetuneTask.export

    def double(self: FinetuneTask, seed: int) -> Any:
        made = meta_model(self, seed)
        made.model.double()
        return made

    def export_float(self: FinetuneTask, weights: dict[str, Any], *rest: Any) -> None:
        export(self, {name: weight.float() for name, weight in weights.items()}, *rest)

    with mock.patch.multiple(FinetuneTask, meta_model=double, export=export_float):
        train(load_config(config), print_fn=silent)


if __name__ == "__main__":
    train_double(Path(sys.argv[1]))

"""Trains the tiny 4M once a case, in processes that are started once: `python equal_cases.py DATA RUNS CASES_JSON`.

In float64, so that what remains between one process and several is a matter of the sums' order alone. A micro-batch of
a process has one or two samples, so that in most steps some process misses some modality. In a case named "apart"
processes take themselves to be on machines of their own."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from fourm_engine.pretrain.task import FourMTask
from fourm_engine.tokenizers import store
from fourm_engine.train import parallel
from fourm_engine.train.distributed import processes, world_size
from fourm_engine.train.loop import Trainer
from tests.pretrain.fourm_run import Host, config, make_task


def train(data: Path, run: Path, settings: dict[str, Any]) -> Trainer:
    settings = {"schedule": "constant", "batch_size": 4, "steps": 6, "warmup": 0, "clip": None, **settings}
    task = make_task(data, val=None, stem=settings.pop("stem", "linear"))
    if settings.get("precision") != "bf16":
        meta_model = task.meta_model

        def double(seed: int) -> Any:
            made = meta_model(seed)
            made.model.double()
            return made

        task.meta_model = double  # type: ignore[method-assign]
    export = FourMTask.export
    task.export = lambda weights, folder, scores: export(  # type: ignore[method-assign]
        task, {name: weight.float() for name, weight in weights.items()}, folder, scores
    )
    trainer = Trainer(task, config(**settings), run, seed=3)
    trainer.run()
    return trainer


def as_on_a_gpu() -> None:
    """Weights are gathered in bf16, and autocast computes norms in fp32."""
    parallel.HALF_ON = ("cpu",)
    nn.LayerNorm.forward = lambda self, x: F.layer_norm(  # type: ignore[method-assign]
        x.float(), self.normalized_shape, self.weight.float(), None, self.eps
    )


def main() -> None:
    torch.set_num_threads(1)
    store.PluginManager = Host  # type: ignore[assignment]
    data, runs, cases = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    with processes(config()):
        for name, settings in cases.items():
            if settings.get("precision") == "bf16":  # the last case
                as_on_a_gpu()
            apart = "apart" in name
            os.environ["LOCAL_WORLD_SIZE"] = "1" if apart else os.environ["WORLD_SIZE"]
            gradients = train(data, runs / name, settings).learner.gradients
            alone = apart or gradients.sharded or world_size() == 1
            assert (gradients.shared is None) == alone, f"{name}: the way of the gradients"


if __name__ == "__main__":
    main()

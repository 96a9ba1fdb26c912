"""A task with blocks, for optimisers that tell layers and matrices apart: the toy's samples through two encoder blocks.

Run as a program it trains itself: `python blocks_task.py RUN CONFIG_JSON`, also under torchrun."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from fourm_engine.nn.blocks import EncoderBlock
from fourm_engine.train.loop import Trainer
from fourm_engine.train.task import Loss
from tests.train.toy_task import FEATURES, ToyTask, config

WIDTH = 8


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(1, WIDTH)
        self.place = nn.Parameter(torch.randn(FEATURES, WIDTH))
        self.blocks = nn.ModuleList(
            EncoderBlock(WIDTH, 2, mlp="gelu", mlp_ratio=2, bias=False, qk_norm=False) for _ in range(2)
        )
        self.head = nn.Linear(WIDTH, 1)

    def forward(self, x):
        x = self.embed(x[..., None]) + self.place
        for block in self.blocks:
            x = block(x, None)
        return self.head(x).mean((1, 2))


class BlocksTask(ToyTask):
    def __init__(self, *, stop_at=None, **options):
        super().__init__(**options)
        self.stop_at = stop_at

    def model(self):
        return Network()

    def blocks(self, model):
        return list(model.blocks)

    def layers_above(self, name):
        part, _, rest = name.partition(".")
        return 2 - int(rest[0]) if part == "blocks" else {"head": 0}.get(part, 3)

    def loss(self, model, batch, step):
        if step == self.stop_at:
            raise RuntimeError("stop")
        x, y, is_far = batch[:, :FEATURES], batch[:, -2], batch[:, -1]
        error = (model(x) - y) ** 2 * (float("nan") if step in self.poison else 1)
        return Loss({"far": (is_far * error).sum(), "near": ((1 - is_far) * error).sum()})

    def after_step(self, model, step):
        pass

    def evaluate(self, model, share):
        x = torch.randn(8, FEATURES, generator=torch.Generator().manual_seed(3))[share.rank :: share.world]
        return {"error": (float((model(x) - x.sum(1)).square().sum()), float(len(x)))}

    def export_averages(self, weights, folder):
        save_file({name: w.clone() for name, w in weights.items()}, folder / "averages.safetensors")


def main() -> None:
    torch.set_num_threads(1)
    settings = {"optimiser": "muon", "lr": 3e-3, **json.loads(sys.argv[2])}
    options = json.loads(sys.argv[3]) if len(sys.argv) > 3 else {}
    Trainer(BlocksTask(**options), config(**settings), Path(sys.argv[1]), seed=1).run()


if __name__ == "__main__":
    main()

"""A U-Net, or a small ResNet, from scratch on the labels of a task, beside the encoder with a head that `fourm
finetune` trains: same samples, crops, loss, training loop and metrics.

    python -m benchmarks.unet examples/ablations/tasks/depth-head.yaml --network unet --rates 1e-3 3e-3 --seeds 0 1 2

The rate is chosen among `--rates` by the held-out measure of the first seed. `--network head` trains the config's
encoder and head, and `--network scratch` the same from drawn weights. Prints, for each run, its measures and the CPU
seconds of its training without evaluation; last, the mean and the standard deviation over the seeds.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fourm_engine.data.order import Share
from fourm_engine.modalities import load_manager
from fourm_engine.recipes.finetune_task import modalities_of, task_of
from fourm_engine.recipes.task_config import load_task_config
from fourm_engine.train.distributed import processes
from fourm_engine.train.loop import Trainer
from fourm_engine.transfer.map_heads import UNet
from fourm_engine.transfer.network import TaskBatch, pixels
from fourm_engine.transfer.source import open_source
from fourm_engine.transfer.task import HeadTask
from fourm_plugins.head import HeadFeatures, HeadSpec

LEVELS = 4


def conv(channels: int, width: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())


class Residual(nn.Module):
    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = conv(channels, width, stride)
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
        self.past = nn.Identity() if stride == 1 else nn.Conv2d(channels, width, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.past(x) + self.second(self.first(x)))


class ResNet(nn.Sequential):
    """Two residual blocks a level, the mean over places, a linear layer (arXiv 1512.03385)."""

    def __init__(self, channels: int, outputs: int, width: int) -> None:
        widths = [width << level for level in range(LEVELS)]
        blocks = [nn.Sequential(Residual(w // 2, w, 2), Residual(w, w, 1)) for w in widths[1:]]
        first = nn.Sequential(conv(channels, width), Residual(width, width, 1))
        super().__init__(first, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], outputs))


class OfPixels(nn.Module):
    """A network of pictures in place of an encoder and its head: the head `unet` without anything from an encoder, or
    a ResNet."""

    def __init__(self, spec: HeadSpec, width: int) -> None:
        super().__init__()
        self.spec = spec
        channels = sum(size[0] for size in spec.pixels.values())
        self.network = UNet(spec, width=width) if spec.size else ResNet(channels, spec.outputs, width)

    def forward(self, batch: TaskBatch) -> Tensor:
        seen = pixels(batch, self.spec)
        if not self.spec.size:
            return self.network(torch.cat(list(seen.values()), 1))
        B, D = len(batch.tokens.pos), self.spec.width
        device = batch.tokens.pos.device
        maps = {name: torch.zeros(B, D, *grid, device=device) for name, grid in self.spec.grids.items()}
        tokens, valid = torch.zeros(B, 1, D, device=device), torch.ones(B, 1, dtype=torch.bool, device=device)
        return self.network(HeadFeatures(tokens, valid, maps, seen))


class Timed(HeadTask):
    """A task that notes the CPU seconds of its evaluations, and may learn another network; nothing is exported."""

    width: int | None = None
    evaluated = 0.0

    def model(self) -> nn.Module:
        return super().model() if self.width is None else OfPixels(self.spec, self.width)

    def layers_above(self, name: str) -> Any:
        return super().layers_above(name) if self.width is None else None

    def blocks(self, model: nn.Module) -> list[nn.Module]:
        return super().blocks(model) if self.width is None else []

    def evaluate(self, model: nn.Module, share: Share) -> dict[str, tuple[float, float]]:
        began = time.process_time()
        scores = super().evaluate(model, share)
        self.evaluated += time.process_time() - began
        return scores

    def export(self, weights: dict[str, Tensor], folder: Path, scores: dict[str, float]) -> None:
        pass


def trained(path: Path, overrides: list[str], width: int | None) -> tuple[dict[str, float], float, tuple[str, bool]]:
    """The held-out measures, the CPU seconds of training, and the measure that counts."""
    with tempfile.TemporaryDirectory() as folder:
        config = load_task_config(path, [f"run={folder}/run", "data.workers=0", *overrides])
        manager = load_manager(config.modalities)
        inputs, target = modalities_of(config, manager)
        source = open_source(config.finetune.source, inputs, manager)
        one = task_of(config, source, target, manager, lambda line: None)
        with processes(config.train, width=source.model.width):
            task = Timed(source, one.settings, one.config, one.objective, one.target, one.tokenizers, one.data,
                         one.held_out, manager, workers=0)  # fmt: skip
            task.width = width
            trainer = Trainer(task, config.train, config.run, seed=config.seed, host=manager, accepted=lambda: None)
            began = time.process_time()
            scores = trainer.run()
            return scores, time.process_time() - began - task.evaluated, task.best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--network", choices=["unet", "head", "scratch"], default="unet")
    parser.add_argument("--width", type=int, default=16, help="channels of the first level")
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_intermixed_args()
    width = options.width if options.network == "unet" else None
    overrides = [*options.overrides, *(["finetune.from_scratch=true"] if options.network == "scratch" else [])]
    known: dict[tuple[float, int], float] = {}

    def run(rate: float, seed: int) -> float:
        if (rate, seed) not in known:
            scores, seconds, (name, more) = trained(
                options.config, [*overrides, f"train.lr={rate}", f"seed={seed}"], width
            )
            measures = "  ".join(f"{key} {value:.4f}" for key, value in scores.items())
            print(f"{options.network} rate {rate:g} seed {seed}: {measures}  ({seconds:.1f} CPU s)", flush=True)
            known[rate, seed] = scores[name] if more else -scores[name]
        return known[rate, seed]

    rate = max(options.rates, key=lambda rate: run(rate, options.seeds[0]))
    values = [abs(run(rate, seed)) for seed in options.seeds]
    print(f"{options.network} rate {rate:g}: {mean(values):.4f} ± {stdev(values) if len(values) > 1 else 0:.4f}")


if __name__ == "__main__":
    main()

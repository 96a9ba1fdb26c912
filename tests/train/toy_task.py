"""A task small enough to train in a test: linear regression with two terms, whose counts differ from batch to batch.

Run as a program it trains itself: `python toy_task.py RUN CONFIG_JSON [OPTIONS_JSON]`, also under torchrun."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import nn

from fourm_engine.train import best, checkpoint_manager, loop, watchdog
from fourm_engine.train.config import TrainConfig
from fourm_engine.train.loop import Trainer
from fourm_engine.train.task import Loss, Task
from fourm_plugins.manager import PluginManager

FEATURES = 5


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(FEATURES, 7), nn.LayerNorm(7), nn.GELU())
        self.unused = nn.Linear(3, 3)  # never has a gradient
        self.near, self.far = nn.Linear(7, 1), nn.Linear(7, 1)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        x = nn.functional.dropout(self.body(x), 0.1, self.training and DROPOUT)
        return self.near(x)[:, 0], self.far(x)[:, 0]


DROPOUT = os.environ.get("TOY_DROPOUT") == "1"  # random numbers differ between processes


def no_memory(self, batch):
    raise RuntimeError("no memory")


def stand_still():
    time.sleep(1000)


def stops(owner, name, when=lambda *args: True, number=signal.SIGSTOP):
    """Have this process stop, as if its machine froze, or get another signal, where it calls `owner.name`."""
    real = getattr(owner, name)

    def stop(*args, **kwargs):
        if when(*args):
            os.kill(os.getpid(), number)
        return real(*args, **kwargs)

    setattr(owner, name, stop)


def freeze(phase: str, steps: int) -> None:
    """Stop this process in a phase of a run."""
    phases = {
        "starting": (loop, "watched"),
        "meeting": (dist, "init_process_group"),
        "checking": (ToyTask, "check"),
        "building": (ToyTask, "model"),
        "loading": (loop, "load"),
        "saving": (checkpoint_manager, "save_file"),
        "saving the last": (checkpoint_manager, "save_file", lambda _, path: f"step-{steps:08d}" in str(path)),
        "evaluating": (ToyTask, "evaluate"),
        "exporting": (ToyTask, "export"),
        "leaving": (dist, "destroy_process_group"),
    }
    stops(*phases[phase])


class ToyTask(Task):
    name = "toy"
    replays = True
    count_names = ("far", "near")

    def __init__(self, *, poison=(), kill_at=None, stop_at=None, end_at=None, slow=0.0, identity=None, width=FEATURES):
        self.poison, self.kill_at, self.slow, self.width = set(poison), kill_at, slow, width
        self.stop_at, self.end_at = stop_at, end_at
        self.extra = identity or {}

    def model(self):
        return Network()

    def batches(self, start_step, share):
        step = start_step
        while True:
            for micro in range(share.accumulate):
                rows = []
                for position in share.positions(step, micro):
                    rng = np.random.default_rng([7, position])
                    x = rng.normal(size=FEATURES)
                    is_far = position % 3 == 0 or position % 16 < 3
                    rows.append([*x, x.sum() + 0.1 * rng.normal(), float(is_far)])
                yield torch.tensor(np.array(rows), dtype=torch.float32)
            step += 1

    def counts(self, batch):
        far = float(batch[:, -1].sum())
        return {"far": far, "near": len(batch) - far}

    def loss(self, model, batch, step):
        if step == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if step == self.end_at:
            os.kill(os.getpid(), signal.SIGTERM)
        if step == self.stop_at:
            stand_still()
        time.sleep(self.slow)
        x, y, is_far = batch[:, :FEATURES], batch[:, -2], batch[:, -1]
        near, far = model(x)
        if step in self.poison:
            far = far * float("nan")
        return Loss({"far": (is_far * (far - 2 * y) ** 2).sum(), "near": ((1 - is_far) * (near - y) ** 2).sum()})

    def sample_names(self, step, micro, share):
        return [f"sample {position}" for position in share.positions(step, micro)]

    def after_step(self, model, step):
        model.seen += 1

    def evaluate(self, model, share):
        x = torch.randn(8, FEATURES, generator=torch.Generator().manual_seed(3))[share.rank :: share.world]
        near, _ = model(x)
        return {"error": (float((near - x.sum(1)).square().sum()), float(len(x)))}

    def export(self, weights, folder, scores):
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: w.clone() for name, w in weights.items()}, folder / "model.safetensors")

    def identity(self):
        return {"model.width": self.width, **self.extra}


def config(**changes):
    return TrainConfig(
        **{"batch_size": 16, "steps": 20, "lr": 0.05, "warmup": 4, "log_every": 1, "device": "cpu", **changes}
    )


def train(run: Path, task: Task | None = None, seed: int = 1, host: PluginManager | None = None, **changes):
    """The exported weights."""
    Trainer(task or ToyTask(), config(**changes), run, seed=seed, host=host).run()
    return load_file(run / "model.safetensors")


def main() -> None:
    torch.set_num_threads(1)
    run, changes = Path(sys.argv[1].replace("RANK", os.environ.get("RANK", "0"))), json.loads(sys.argv[2])
    options = json.loads(sys.argv[3]) if len(sys.argv) > 3 else {}
    if "differ" in options:
        options["identity"] = {options.pop("differ"): os.environ.get("RANK", "0")}
    if options.pop("only_on_rank", None) not in (None, os.environ.get("RANK")):
        options = {key: value for key, value in options.items() if key not in ("kill_at", "stop_at")}
    if options.pop("first_start_only", False) and os.environ.get("TORCHELASTIC_RESTART_COUNT") != "0":
        options.pop("kill_at", None)
    if (fail := options.pop("fail_on_rank", None)) is not None and os.environ.get("RANK") == str(fail):

        def full(*args, **kwargs):
            raise OSError(28, "No space left on device", "/data/part")

        checkpoint_manager.save_file = full
    if options.pop("raise_on_rank", "none") == os.environ.get("RANK"):
        ToyTask.counts = no_memory
    phase, number = options.pop("freeze", ("", ""))
    if phase and number == os.environ.get("RANK"):
        freeze(phase, changes["steps"])
    if options.pop("keeps", False):
        ToyTask.monitor = "error", False
    if (step := options.pop("kill_keeping", None)) is not None:
        stops(best, "write_atomically", lambda _, note: json.loads(note)["step"] >= step, number=signal.SIGKILL)
    watchdog.SILENT = watchdog.LATE = options.pop("silent", watchdog.SILENT)
    watchdog.SEEN = options.pop("seen", watchdog.SEEN)
    watchdog.GRACE = options.pop("grace", watchdog.GRACE)
    Trainer(ToyTask(**options), config(**changes), run, seed=1).run()


if __name__ == "__main__":
    main()

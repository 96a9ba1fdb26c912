"""What processes must agree on, as a program of several: `agreeing.py start PARALLEL` or `agreeing.py save FOLDER`.
The first process prints what each found to standard error."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from fourm_engine.train import checkpoint_manager
from fourm_engine.train.checkpoint_manager import CheckpointManager
from fourm_engine.train.distributed import gather_json, processes, rank
from fourm_engine.train.exchange import reduce_counts
from fourm_engine.train.loop import Trainer
from fourm_engine.train.prefetch import Prefetcher
from tests.train.toy_task import FEATURES, Network, ToyTask, config

ERRORS = {
    "disk": lambda: OSError(28, "No space left on device", "/data/part"),
    "permission": lambda: PermissionError(13, "Permission denied", "/data/part"),
    "memory": MemoryError,
    "bug": lambda: RuntimeError("storage has gone"),
    "ctrl-c": KeyboardInterrupt,
    "exit": lambda: SystemExit(3),
}


class Drawn(Network):
    """Draws from torch's generator as it likes, and has a batch norm."""

    def __init__(self):
        torch.manual_seed(17 + rank())
        super().__init__()
        self.norm = nn.BatchNorm1d(FEATURES)
        self.register_buffer("drawn", torch.randn(3))

    def forward(self, x):
        return super().forward(self.norm(x))


class DrawnTask(ToyTask):
    def model(self):
        return Drawn()

    def after_step(self, model, step):
        model.drawn += torch.randn(3)  # as restarts of codes draw: alike in all processes


def state_of(trainer: Trainer) -> list[float]:
    tensors = [*trainer.model.parameters(), *trainer.model.buffers()]
    whole = [t.full_tensor() if isinstance(t, DTensor) else t for t in tensors]
    return torch.cat([t.detach().double().reshape(-1) for t in whole]).tolist()


def start(parallel: str) -> None:
    settings = config(parallel=parallel, steps=4, ema=0.9)
    with processes(settings) as device:
        torch.manual_seed(rank())
        trainer = Trainer(DrawnTask(), settings, Path("unused"), seed=1)
        trainer._check()
        trainer._build(device)
        torch.manual_seed(17)  # what the first process drew
        found = {"drawn": [gather_json(state_of(trainer)), trainer.model.drawn.tolist()]}
        trainer.feed = Prefetcher(trainer.task.batches(0, trainer.share), 1, device)
        for step in range(3):
            micro_batches = trainer.feed.next_step()
            counts, _, _ = reduce_counts(trainer.task, [batch for batch, _ in micro_batches], {"signal": 0})
            trainer.learner.step(step, [batch for _, batch in micro_batches], counts)
        found["learnt"] = gather_json(state_of(trainer))
        # Noise within a step differs between processes.
        torch.manual_seed(trainer_seed(rank()))
        found["noise"] = gather_json(torch.randn(2).tolist())
        if rank() == 0:
            print(json.dumps(found), file=sys.stderr)


def trainer_seed(process: int) -> int:
    from fourm_engine.train.distributed import seed_of

    return seed_of(1, 0, process)


def save(folder: Path) -> None:
    found = []
    real = checkpoint_manager.save_file
    with processes(config()):
        for kind, make in ERRORS.items():
            for bad in (0, 1):
                said: list[str] = []
                checkpoints = CheckpointManager(folder / f"{kind}{bad}", keep=2, report=said.append)

                def fail(*args, make=make, bad=bad, **kwargs):
                    if rank() == bad:
                        raise make()
                    return real(*args, **kwargs)

                tensors = {"a": torch.ones(4)}
                checkpoints.save(1, tensors, {})
                checkpoints.finish()
                checkpoint_manager.save_file = fail
                try:
                    checkpoints.save(2, tensors, {})
                    checkpoints.finish()
                    raised = None
                except BaseException as error:
                    raised = [type(error).__name__, str(error)]
                checkpoint_manager.save_file = real
                left = sorted(path.name for path in checkpoints.folder.iterdir())
                found.append([kind, bad, gather_json([raised, said, checkpoints.saved, left])])
                dist.barrier()
        if rank() == 0:
            print(json.dumps(found), file=sys.stderr)


if __name__ == "__main__":
    torch.set_num_threads(1)
    start(sys.argv[2]) if sys.argv[1] == "start" else save(Path(sys.argv[2]))

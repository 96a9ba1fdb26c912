"""Periodic reports of a run, which do not change its result: when they are due, and pictures.

In: the settings `*_every`, a task, weights. Out: files in the run's folder.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from fourm_engine.train.distributed import describe, rank, sum_numbers
from fourm_engine.train.metrics import duration
from fourm_engine.train.task import Task

FOLDER = "pictures"


def due(every: int | None, step: int, steps: int) -> bool:
    """Whether an action that is done every `every` steps, and at the end, is due after `step` of `steps`."""
    return every is not None and (step % every == 0 or step == steps)


def draw(
    task: Task, weights: Mapping[str, Tensor], run: Path, step: int, device: torch.device, note: Callable[..., None]
) -> None:
    """Write `<run>/pictures/step-N.png` on rank 0, the only process that has `weights`, while the others wait. Errors
    are reported and do not end the run. Every process must call it."""
    if rank() == 0:
        path = run / FOLDER / f"step-{step}.png"
        began = time.monotonic()
        devices = [device] if device.type == "cuda" else []
        try:
            with torch.random.fork_rng(devices=devices), torch.no_grad():
                task.show(dict(weights), path, device)
            note(f"pictures, step {step}, {duration(time.monotonic() - began)}", str(path))
        except Exception as error:  # including those of plugins, and a full GPU
            note(f"pictures, step {step}: failed; the run continues without them", describe(error))
    sum_numbers([0.0])

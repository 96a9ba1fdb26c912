"""What a run writes to its disk, before it begins.

In: the `train` section and the network. Out: bytes of a checkpoint, and one line where they do not fit.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from torch import nn

from fourm_engine.train.config import TrainConfig
from fourm_engine.train.console import gib


def kept_beside(train: TrainConfig, learning: float) -> dict[str, float]:
    """Bytes kept beside the weights, by part; `learning`: bytes of the weights that learn."""
    parts = {}
    if train.optimiser == "adamw":  # the state of other optimisers is not known in advance
        parts["optimiser (2 moments)"] = 2 * learning
    if train.ema is not None:
        parts["averages"] = learning
    return parts


def checkpoint_bytes(train: TrainConfig, network: nn.Module) -> float:
    """Bytes of a checkpoint: weights, moments, averages, in fp32."""
    learning = 4.0 * sum(p.numel() for p in network.parameters() if p.requires_grad)
    return 4.0 * sum(p.numel() for p in network.parameters()) + sum(kept_beside(train, learning).values())


def disk_shortage(run: Path, train: TrainConfig, network: nn.Module, *, steps: int, saved: int | None) -> str:
    """One line about a disk that is too full for the next checkpoint and the trained weights of a run of so many
    `steps` that is at step `saved`, None: before the first; "" for any other. No error, since there may be room by
    then."""
    checkpoint = checkpoint_bytes(train, network)
    weights = 4.0 * sum(p.numel() for p in network.parameters()) * len(train.exports)
    # A later checkpoint takes the place of an earlier one.
    need = checkpoint + weights if saved is None else max(checkpoint, weights)
    with suppress(OSError):
        free = shutil.disk_usage(next(folder for folder in (run, *run.absolute().parents) if folder.exists())).free
        if free < need:
            due = min(steps, ((saved or 0) // train.checkpoint_every + 1) * train.checkpoint_every)
            return (
                f"{run}: {gib(free)} of the disk are free, a checkpoint takes {gib(checkpoint)} and the trained model "
                f"{gib(weights)}; free space before step {due}, when one is saved, or choose another folder"
            )
    return ""

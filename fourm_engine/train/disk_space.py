"""Estimates the disk space that a run needs, before it starts.

In: the `train` section and the network. Out: bytes per checkpoint, how many are kept, and a warning if they do not fit.
"""

from __future__ import annotations

import shutil
from bisect import bisect_right
from contextlib import suppress
from pathlib import Path

from torch import nn

from fourm_engine.train.checkpoint import steps_in
from fourm_engine.train.config import TrainConfig
from fourm_engine.train.console import gib


def kept_beside(train: TrainConfig, learning: float) -> dict[str, float]:
    """Bytes of optimiser state and averages, by part. `learning`: bytes of the trainable weights."""
    parts = {}
    if train.optimiser == "adamw":  # the state of other optimisers is not known in advance
        parts["optimiser (2 moments)"] = 2 * learning
    if train.ema is not None:
        parts["averages"] = learning
    return parts


def checkpoint_bytes(train: TrainConfig, network: nn.Module) -> float:
    """Bytes of a checkpoint: weights, optimiser state and averages, in fp32."""
    learning = 4.0 * sum(p.numel() for p in network.parameters() if p.requires_grad)
    return 4.0 * sum(p.numel() for p in network.parameters()) + sum(kept_beside(train, learning).values())


def checkpoints_kept(train: TrainConfig, saves: int) -> int:
    """Number of checkpoints on disk after `saves` saves: the newest `keep`, and those at multiples of `keep_every`
    steps. The one being written comes on top."""
    others = max(0, saves - train.keep) * train.checkpoint_every
    return min(saves, train.keep) + (others // train.keep_every if train.keep_every else 0)


def disk_shortage(run: Path, train: TrainConfig, network: nn.Module, *, steps: int, saved: int | None) -> str:
    """A warning, in one line, if the disk has too little space for the checkpoints and weights of a run of `steps`
    steps whose newest checkpoint is of step `saved` (None: it has none); otherwise "". Not an error: space may be freed
    during the run."""
    each = checkpoint_bytes(train, network)
    weights = 4.0 * sum(p.numel() for p in network.parameters()) * (len(train.exports) + train.keep_best)
    there, every = len(steps_in(run / "checkpoints")), train.checkpoint_every

    def more(save: int) -> int:
        """Number of checkpoints besides those on disk now, while this one is being written."""
        return max(1, checkpoints_kept(train, save - 1) + 1 - there)

    last = -(-steps // every)
    first = min(last, (saved or 0) // every + 1)
    need = max(more(last) * each, (checkpoints_kept(train, last) - there) * each + weights)
    with suppress(OSError):
        free = shutil.disk_usage(next(folder for folder in (run, *run.absolute().parents) if folder.exists())).free
        if free < need:
            saves = range(first, last)
            due = min(steps, (first + bisect_right(saves, int(free // each), key=more)) * every)
            what = "a checkpoint takes" if more(last) == 1 else f"each of {more(last)} more checkpoints takes"
            return (
                f"{run}: {gib(free)} of the disk are free, {what} {gib(each)} and the trained model {gib(weights)}; "
                f"free space before step {due}, or choose another folder"
            )
    return ""

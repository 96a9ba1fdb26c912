"""Which part of a divisible job this process takes, from torchrun's environment; no process group is joined for it."""

from __future__ import annotations

import os


def rank_and_world() -> tuple[int, int]:
    """(rank, number of processes); (0, 1) outside torchrun."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))

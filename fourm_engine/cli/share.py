"""What commands share: which part of a divisible job this process takes, from torchrun's environment (no process group
is joined for it), and options of the form NAME=VALUE."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def rank_and_world() -> tuple[int, int]:
    """(rank, number of processes); (0, 1) outside torchrun."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def local_device() -> torch.device:
    """The GPU of this process, or the CPU where there is none."""
    import torch

    return (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        if torch.cuda.is_available()
        else torch.device("cpu")
    )


def pairs(option: str, texts: Iterable[str] | None, form: str) -> dict[str, str]:
    """{name: value} of an option given as NAME=VALUE, any number of times. Raises ValueError showing the `form`."""
    found: dict[str, str] = {}
    for text in texts or ():
        name, _, value = text.partition("=")
        if not (name and value):
            raise ValueError(f"{option} {text!r}: expected {form}")
        if name in found:
            raise ValueError(f"{option} {name}: given twice; give it once")
        found[name] = value
    return found

"""How long a checkpoint holds up training, written at once and by a thread.

    OMP_NUM_THREADS=1 python -m benchmarks.checkpoints FOLDER --size Ti

Saves the weights and AdamW's moments of a model below FOLDER. Prints milliseconds: of a save that is waited for, and of
one that a thread writes, until training goes on and until it is there.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from benchmarks.published import Samples
from fourm_engine.nn.config import ModelConfig
from fourm_engine.nn.transformer import Transformer
from fourm_engine.train.checkpoint_manager import CheckpointManager


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", default="Ti", choices=["Ti", "S", "B", "L", "XL"])
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = Transformer(ModelConfig(size=options.size), Samples(tokens=128).vocabulary).to(device)
    state = model.state_dict()
    kinds = ("model", "exp_avg", "exp_avg_sq")
    tensors = {f"{kind}/{name}": tensor.clone() for kind in kinds for name, tensor in state.items()}
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    print(f"4M-{options.size}: {total / 2**20:.0f} MiB in {len(tensors)} tensors, {device}")

    checkpoints = CheckpointManager(options.folder, keep=1, report=print)
    spent: dict[str, list[float]] = {"waited for": [], "in the background": [], "written after": []}
    for step in range(options.repeat + 1):  # the first one makes the buffers
        began = now(device)
        checkpoints.save(2 * step, tensors, {})
        checkpoints.finish()
        waited = now(device) - began
        began = now(device)
        checkpoints.save(2 * step + 1, tensors, {})
        blocked = now(device) - began
        checkpoints.finish()
        written = now(device) - began
        if step:
            for name, seconds in zip(spent, (waited, blocked, written), strict=True):
                spent[name].append(seconds)
    for name, seconds in spent.items():
        middle, low, high = (1000 * each for each in (sorted(seconds)[len(seconds) // 2], min(seconds), max(seconds)))
        print(f"  {name:18} {middle:8.0f} ms ({low:.0f} to {high:.0f})")


if __name__ == "__main__":
    main()

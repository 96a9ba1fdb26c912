"""Token spaces fitted at the same time: a process each, spread over the GPUs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from pathlib import Path

from fourm_engine.recipes.tell import Tell, say


def fit_in_processes(
    config: Path, arguments: list[str], spaces: list[str], jobs: int, on_gpu: Container[str] = (), *, tell: Tell = say
) -> None:
    """Run `fourm tokenizer fit CONFIG ARGUMENTS --space SPACE` for each space, `jobs` at a time; those `on_gpu` see one
    GPU each. What stops this process (Ctrl-C, SIGTERM, SIGHUP) stops them once, so that each saves what it has.

    Raises ValueError, after all have ended, with the names of those that failed."""
    command = [sys.executable, "-m", "fourm_engine.cli", "tokenizer", "fit", str(config), *arguments, "--space"]
    waiting, running, failed = list(spaces), dict[str, subprocess.Popen[bytes]](), list[str]()
    gpus, taken = visible_gpus(), dict[str, str]()  # taken: running space -> its GPU
    stops = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, lambda number, _: sys.exit(128 + number)) for number in stops}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                space = waiting.pop(0)
                environment = dict(os.environ)
                if space in on_gpu and (gpu := least_busy(gpus, taken.values())) is not None:
                    environment["CUDA_VISIBLE_DEVICES"] = taken[space] = gpu
                    tell(f"tokenizer {space}: on GPU {gpu}")
                # In a session of its own: a terminal's Ctrl-C would reach it beside our signal, and two end it at once.
                running[space] = subprocess.Popen([*command, space], env=environment, start_new_session=True)
            time.sleep(0.1)
            for space, process in list(running.items()):
                if process.poll() is not None:
                    del running[space]
                    taken.pop(space, None)
                    failed += [space] * (process.returncode != 0)
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()
        for number, handler in before.items():
            signal.signal(number, handler)
    if failed:
        raise ValueError(f"fitting failed for {', '.join(failed)}; the reason is above")


def visible_gpus() -> list[str]:
    """What names each GPU that this process sees in CUDA_VISIBLE_DEVICES: numbers, or the names given there."""
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [str(number) for number in range(count)] if named is None else [x.strip() for x in named.split(",")][:count]


def least_busy(gpus: Sequence[str], taken: Iterable[str]) -> str | None:
    """The GPU with the fewest jobs, the first of equals; None where there is none."""
    jobs = Counter(taken)
    return min(gpus, key=lambda gpu: jobs[gpu], default=None)

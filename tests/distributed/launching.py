"""Start a program in several processes, as torchrun does, but without its start-up time."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import fourm_engine

ROOT = Path(fourm_engine.__file__).parents[1]


def launch(program: str, *arguments: str, world: int, fail: bool = False) -> str:
    """Run `tests/<program>` in `world` processes; the first one's standard error. All must end well, or all fail."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
    environment |= {"MASTER_PORT": str(port), "WORLD_SIZE": str(world)}
    started = [
        subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / program), *arguments],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    errors = [process.communicate(timeout=300)[1] for process in started]
    codes = [process.returncode for process in started]
    assert all(codes) if fail else not any(codes), errors
    return errors[0]

"""Start a program in several processes, as torchrun does, but without its start-up time."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch.distributed import TCPStore

import fourm_engine

ROOT = Path(fourm_engine.__file__).parents[1]


def meeting() -> tuple[TCPStore, dict[str, str]]:
    """A store where processes meet while somebody holds it, and what their environment says of it. As torchrun does it:
    a port that is found free and let go may be another's by the time they come."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    return store, address


@contextmanager
def started(command: Sequence[str], *, world: int) -> Iterator[list[subprocess.Popen]]:
    """`world` processes on one machine, which end with the block."""
    store, address = meeting()
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    sizes = {"OMP_NUM_THREADS": "1", "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    environment = {**os.environ, **address, **sizes, "PYTHONPATH": path}
    processes = [
        subprocess.Popen(
            command,
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()
        del store


def run(command: Sequence[str], *, world: int) -> list[tuple[int, str, str]]:
    """(exit code, standard output, standard error) of each of `world` processes."""
    with started(command, world=world) as processes:
        said = [process.communicate() for process in processes]
    return [(process.returncode, *texts) for process, texts in zip(processes, said, strict=True)]


def launch(program: str, *arguments: str, world: int, fail: bool = False) -> str:
    """Run `tests/<program>` in `world` processes; the first one's standard error. All must end well, or all fail."""
    ended = run([sys.executable, str(ROOT / "tests" / program), *arguments], world=world)
    codes = [code for code, _, _ in ended]
    assert all(codes) if fail else not any(codes), ended
    return ended[0][2]

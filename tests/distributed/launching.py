"""Start a program in several processes, as torchrun does, but forked from one that has imported everything
(`forking.py`): a start takes milliseconds, not the seconds of an interpreter that imports torch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from torch.distributed import TCPStore

import fourm_engine

ROOT = Path(fourm_engine.__file__).parents[1]
#: No process of a test takes longer.
SECONDS = 300


def meeting() -> tuple[TCPStore, dict[str, str]]:
    """A store where processes meet while somebody holds it, and what their environment says of it. As torchrun does it:
    a port that is found free and let go may be another's by the time they come."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    return store, address


def environments(address: dict[str, str], world: int) -> list[dict[str, str]]:
    """Of each process, by rank."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    sizes = {"OMP_NUM_THREADS": "1", "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    common = {**os.environ, **address, **sizes, "PYTHONPATH": path}
    return [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world)]


class Forked:
    """One process; what a `subprocess.Popen` has of methods."""

    def __init__(self, path: Path, store: TCPStore) -> None:
        self.path, self.store = path, store
        self.pid = int(_read(path.with_suffix(".pid"), SECONDS))

    def poll(self) -> int | None:
        code = self.path.with_suffix(".code")
        return int(code.read_text()) if code.exists() else None

    def wait(self, seconds: float = SECONDS) -> tuple[int, str]:
        """(exit code, standard error). Raises TimeoutError."""
        code, said = int(_read(self.path.with_suffix(".code"), seconds)), self.path.with_suffix(".err")
        return code, said.read_text() if said.exists() else ""  # killed before it said anything

    def printed(self) -> str:
        return self.path.with_suffix(".out").read_text()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


class Starter:
    """The process that the others are forked from; it ends with this one."""

    def __init__(self) -> None:
        self._folder, self._number = Path(tempfile.mkdtemp()), 0
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        program = [sys.executable, str(Path(__file__).with_name("forking.py")), str(self._folder)]
        self._server = subprocess.Popen(program, stdin=subprocess.PIPE, env=environment, text=True)

    def start(self, environment: dict[str, str], program: str, *arguments: str) -> Path:
        assert self._server.stdin is not None
        self._number += 1
        path = self._folder / f"process-{self._number}"
        words = [str(ROOT / "tests" / program), *arguments]
        self._server.stdin.write(json.dumps([environment, os.getcwd(), words, str(path)]) + "\n")
        self._server.stdin.flush()
        return path


@cache
def starter() -> Starter:
    return Starter()


def start(program: str, *arguments: str, world: int) -> list[Forked]:
    """`tests/<program>` in `world` processes, by rank, which may outlive the caller."""
    store, address = meeting()
    paths = [starter().start(environment, program, *arguments) for environment in environments(address, world)]
    return [Forked(path, store) for path in paths]


@contextmanager
def started(program: str, *arguments: str, world: int) -> Iterator[list[Forked]]:
    """`start`, of processes that end with the block."""
    processes = start(program, *arguments, world=world)
    try:
        yield processes
    finally:
        for process in processes:
            process.send_signal(signal.SIGKILL)
            process.wait()


def launch(program: str, *arguments: str, world: int, fail: bool = False) -> str:
    """Run `tests/<program>` in `world` processes; the first one's standard error. All must end well, or all fail."""
    with started(program, *arguments, world=world) as processes:
        ended = [process.wait() for process in processes]
    codes = [code for code, _ in ended]
    assert all(codes) if fail else not any(codes), ended
    return ended[0][1]


def run(command: Sequence[str], *, world: int) -> list[tuple[int, str, str]]:
    """(exit code, standard output, standard error) of each of `world` interpreters, which share no state, not even the
    order of their sets."""
    store, address = meeting()
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, env=each, **pipes) for each in environments(address, world)]
    try:
        said = [process.communicate() for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
        del store
    return [(process.returncode, *texts) for process, texts in zip(processes, said, strict=True)]


def _read(path: Path, seconds: float) -> str:
    last = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > last:
            raise TimeoutError(f"{path} is not there after {seconds:.0f} s")
        time.sleep(0.01)
    return path.read_text()

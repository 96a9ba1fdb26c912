"""Processes of the toy run, forked from one that has imported everything: a start takes milliseconds, not seconds.

As a program it is that one: each line that it reads is a job, (environment, arguments, path); beside `path` it leaves
the process id (`.pid`), standard error (`.err`) and, in the end, the exit code (`.code`)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

from torch.distributed import TCPStore

from tests.distributed.launching import ROOT, meeting


class Forked:
    """One process of a run; what a `subprocess.Popen` has of methods."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pid = int(_read(path.with_suffix(".pid"), 300))

    def poll(self) -> int | None:
        code = self.path.with_suffix(".code")
        return int(code.read_text()) if code.exists() else None

    def wait(self, seconds: float) -> tuple[int, str]:
        """(exit code, standard error). Raises TimeoutError."""
        code, said = int(_read(self.path.with_suffix(".code"), seconds)), self.path.with_suffix(".err")
        return code, said.read_text() if said.exists() else ""  # killed before it said anything

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


class Starter:
    """Starts the toy run in several processes, as torchrun does."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._number = folder, 0
        self._stores: list[TCPStore] = []
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self._server = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, env=environment, text=True)

    def start(self, *arguments: str, world: int) -> list[Forked]:
        """The processes by rank, whose `main` sees these arguments."""
        store, address = meeting()
        self._stores.append(store)
        common = {**address, "WORLD_SIZE": str(world)}
        paths = []
        assert self._server.stdin is not None
        for rank in range(world):
            self._number += 1
            paths.append(self.folder / f"process-{self._number}")
            job = [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}, arguments, str(paths[-1])]
            self._server.stdin.write(json.dumps(job) + "\n")
            self._server.stdin.flush()
        return [Forked(path) for path in paths]

    def close(self) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(timeout=60)


def _read(path: Path, seconds: float) -> str:
    last = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > last:
            raise TimeoutError(f"{path} is not there after {seconds:.0f} s")
        time.sleep(0.01)
    return path.read_text()


def _serve() -> None:

    from tests.train import toy_task

    toy_task.config()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # keepers are reaped by the system
    for line in sys.stdin:
        environment, arguments, path = json.loads(line)
        if os.fork():
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        pid = os.fork()
        if not pid:
            os.environ.update(environment)
            # As a terminal starts it, though a shell in the background, or nohup, has the tests ignore these.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
            sys.argv = ["toy_task.py", *arguments]
            os.dup2(os.open(f"{path}.err", os.O_CREAT | os.O_WRONLY), 2)
            os.dup2(os.open(os.devnull, os.O_RDWR), 1)
            os.dup2(1, 0)
            os._exit(_code(toy_task.main))
        _write(f"{path}.pid", pid)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        _write(f"{path}.code", status)
        os._exit(0)


def _code(main) -> int:
    try:
        main()
        return 0
    except SystemExit as error:
        return int(error.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1


def _write(path: str, number: int) -> None:
    Path(f"{path}~").write_text(str(number))
    os.rename(f"{path}~", path)


if __name__ == "__main__":
    _serve()

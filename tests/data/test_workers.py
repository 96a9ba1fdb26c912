"""No worker process outlives the command that started it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import time

import pytest

from fourm_engine.data.workers import ahead, end_with_parent


def stuck():
    """A worker that waits for a parent to take what it has read."""
    end_with_parent()
    time.sleep(600)


def test_a_worker_ends_when_its_parent_is_killed():
    end, begin = os.pipe()
    child = os.fork()
    if child == 0:
        worker = multiprocessing.get_context("fork").Process(target=stuck)
        worker.start()
        os.write(begin, str(worker.pid).encode())
        os.kill(os.getpid(), signal.SIGKILL)
    pid = int(os.read(end, 100))
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    ending = time.monotonic() + 120
    while alive(pid):
        assert time.monotonic() < ending
        time.sleep(0.05)
    os.close(begin)
    os.close(end)


class Process:
    def __getitem__(self, task):
        return os.getpid()


@pytest.mark.skipif(not hasattr(signal, "sigtimedwait"), reason="the system does not tell who sent a signal")
def test_a_worker_ends_by_the_word_of_its_parent_alone():
    items = ahead(Process(), range(12), workers=1)
    pid = next(items)
    subprocess.run(["kill", str(pid)], check=True)  # as torchrun and Slurm do, which tell all processes
    assert set(items) == {pid}
    items = ahead(Process(), range(12), workers=1)
    pid = next(items)
    (worker,) = (child for child in multiprocessing.active_children() if child.pid == pid)
    worker.terminate()
    worker.join()
    assert worker.exitcode == 0  # for which torch raises nothing, wherever the parent is at that moment


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False

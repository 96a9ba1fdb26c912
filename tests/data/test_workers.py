"""No worker process outlives the command that started it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from fourm_engine.data.workers import WorkerEnded, ahead, end_with_parent


def stuck():
    """A worker that waits for a parent to take what it has read."""
    end_with_parent()
    time.sleep(600)


PARENT = """
import multiprocessing, os, signal, sys
from tests.data.test_workers import stuck

worker = multiprocessing.get_context(sys.argv[1]).Process(target=stuck)
worker.start()
print(worker.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_a_worker_ends_when_its_parent_is_killed(method):
    parent = subprocess.Popen([sys.executable, "-c", PARENT, method], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    parent.stdout.close()
    assert parent.wait() == -signal.SIGKILL
    ending = time.monotonic() + 120
    while alive(pid):
        assert time.monotonic() < ending
        time.sleep(0.05)


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


class CutShort:
    """Reads files of which one is cut short while it is mapped."""

    def __getitem__(self, task):
        if task == 3:
            os.kill(os.getpid(), signal.SIGBUS)
        return task


def test_the_end_of_a_worker_is_told_when_its_item_is_needed_and_not_before():
    handler = signal.getsignal(signal.SIGCHLD)
    items = ahead(CutShort(), range(12), workers=1)
    assert next(items) == 0
    assert signal.getsignal(signal.SIGCHLD) is handler
    (worker,) = multiprocessing.active_children()
    assert next(items) == 1
    worker.join()  # nothing is raised here, where a step would be computed
    with pytest.raises(WorkerEnded, match=r"by signal: Bus error\), as .* a file was cut short while"):
        list(items)


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False

"""No worker process outlives the command that started it."""

from __future__ import annotations

import os
import signal
import time

import numpy as np

from fourm_engine.data.tokens.prepare import prepare


class Large:
    """What a worker reads is more than a pipe holds, so that it waits for its parent to take it."""

    def __getitem__(self, task):
        return os.getpid(), np.zeros(1 << 20, np.uint8)


def tokenizing():
    items = prepare(Large(), range(1000), workers=2)
    return next(items)[0], next(items)[0]


def test_workers_end_when_their_parent_is_killed():
    end, begin = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(begin, " ".join(map(str, tokenizing())).encode())
        os.kill(os.getpid(), signal.SIGKILL)
    pids = [int(pid) for pid in os.read(end, 100).split()]
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    ending = time.monotonic() + 20
    while left := [pid for pid in pids if alive(pid)]:
        assert time.monotonic() < ending, left
        time.sleep(0.05)
    os.close(begin), os.close(end)


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False

"""Processes of one machine average their gradients in memory that they share."""

import errno
import multiprocessing
import os

import pytest
import torch
import torch.distributed as dist

from fourm_engine.train import shared_mean
from fourm_engine.train.shared_mean import SharedMean


def _work(rank, world, folder, results, full, apart):
    os.environ["LOCAL_WORLD_SIZE"] = str(world)
    shared_mean.MEMORY = str(folder)
    if rank == apart:  # as in a container, whose memory the others do not see
        exists = os.path.exists
        os.path.exists = lambda path: not str(path).startswith(str(folder)) and exists(path)
    if rank == full:

        def no_room(*_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        os.posix_fallocate = no_room
    dist.init_process_group("gloo", init_method=f"file://{folder.parent}/store", rank=rank, world_size=world)
    mean = SharedMean.open(7, torch.float32)
    if mean is None:
        results.put((rank, None))
        return
    assert mean.buffer.tolist() == [0.0] * 7
    for _ in range(2):
        mean.buffer.copy_(torch.arange(7.0) * 3**rank)
        mean.reduce()
    results.put((rank, mean.buffer.tolist()))


@pytest.fixture
def processes(tmp_path):
    def run(world, full=None, apart=None):
        fork, folder = multiprocessing.get_context("fork"), tmp_path / "memory"
        folder.mkdir()
        results = fork.SimpleQueue()
        started = [
            fork.Process(target=_work, args=(rank, world, folder, results, full, apart)) for rank in range(world)
        ]
        for process in started:
            process.start()
        for process in started:
            process.join()
        assert [process.exitcode for process in started] == [0] * world
        assert not list(folder.iterdir())
        return dict(results.get() for _ in started)

    return run


def test_all_get_the_mean_and_no_file_is_left(processes):
    mean = [x * 13 / 3 for x in range(7)]
    assert processes(3) == {rank: pytest.approx(mean) for rank in range(3)}


def test_where_one_has_no_room_none_shares(processes):
    assert processes(2, full=1) == {0: None, 1: None}


def test_where_one_does_not_see_the_others_none_shares(processes):
    assert processes(2, apart=0) == {0: None, 1: None}


def test_a_single_process_shares_nothing():
    assert SharedMean.open(7, torch.float32) is None

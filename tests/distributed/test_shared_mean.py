"""Processes of one machine average their gradients in memory that they share."""

import errno
import multiprocessing
import os
from contextlib import redirect_stderr
from io import StringIO

import pytest
import torch
import torch.distributed as dist

from fourm_engine.train.shared_mean import SharedMean


def _no_room(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _unseen(path):
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


def _work(rank, world, folder, results, changes):
    os.environ["LOCAL_WORLD_SIZE"] = str(world)
    for name, function in changes.get(rank, {}).items():
        setattr(os, name, function) if function else delattr(os, name)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    before = len(os.listdir("/proc/self/fd"))
    with redirect_stderr(StringIO()) as said:
        mean = SharedMean.open(7, torch.float32)
    assert len(os.listdir("/proc/self/fd")) == before
    if mean is None:
        results.put((rank, said.getvalue()))
        return
    assert mean.buffer.tolist() == [0.0] * 7
    for _ in range(2):
        mean.buffer.copy_(torch.arange(7.0) * 3**rank)
        mean.reduce()
    results.put((rank, mean.buffer.tolist()))


@pytest.fixture
def processes(tmp_path):
    def run(world, **changes):
        """`rank_N`: functions of `os` in that process."""
        fork = multiprocessing.get_context("fork")
        results, changes = fork.SimpleQueue(), {int(name.removeprefix("rank_")): each for name, each in changes.items()}
        started = [fork.Process(target=_work, args=(rank, world, tmp_path, results, changes)) for rank in range(world)]
        for process in started:
            process.start()
        for process in started:
            process.join()
        assert [process.exitcode for process in started] == [0] * world
        return dict(results.get() for _ in started)

    return run


def test_all_get_the_mean(processes):
    mean = [x * 13 / 3 for x in range(7)]
    assert processes(3) == {rank: pytest.approx(mean) for rank in range(3)}


def test_the_memory_has_no_name_that_a_killed_process_could_leave(processes, tmp_path):
    def reserve(handle, *_):
        assert os.fstat(handle).st_nlink == 0
        return reserved(handle, *_)

    reserved = os.posix_fallocate
    assert processes(2, rank_1={"posix_fallocate": reserve}) == {rank: [x * 2.0 for x in range(7)] for rank in range(2)}


def test_where_one_has_no_room_none_shares_and_the_first_says_so(processes):
    assert processes(2, rank_1={"posix_fallocate": _no_room}) == {
        0: "no memory to share; gradients take the slower way: rank 1: No space left on device; free space\n",
        1: "",
    }


def test_a_python_without_such_memory_takes_the_slower_way(processes):
    said = processes(2, rank_0={"memfd_create": None}, rank_1={"memfd_create": None})
    assert "memfd_create" in said[0]
    assert said[1] == ""


def test_where_one_does_not_see_the_others_none_shares(processes):
    readlink = os.readlink

    def of_this_process(path):
        return readlink(path) if f"/{os.getpid()}/" in path else _unseen(path)

    said = processes(2, rank_1={"readlink": of_this_process})
    assert "rank 1: /proc/" in said[0]
    assert said[1] == ""


def test_what_has_the_number_of_a_process_in_another_container_is_not_written_to(processes):
    said = processes(2, rank_1={"readlink": lambda path: f"/memfd:fourm-{os.getpid()}"})
    assert "containers" in said[0]
    assert said[1] == ""

"""Work in forked processes: results, errors and losses."""

import os
import signal

import pytest

from fourm_engine.evaluate.run_parallel import run_parallel


def test_results_come_with_their_numbers_from_processes_of_their_own():
    found = dict(run_parallel([os.getpid] * 3, 2))
    assert sorted(found) == [0, 1, 2]
    assert len({*found.values(), os.getpid()}) == 4
    assert list(run_parallel([os.getpid], 1)) == [(0, os.getpid())]


def test_an_error_of_a_piece_is_raised_and_the_others_end():
    class Unsendable(ValueError):
        def __init__(self, one, two):
            super().__init__(f"{one} {two}")

    def fail():
        raise Unsendable("no", "data")

    with pytest.raises(ValueError, match=r"^no data$"):
        list(run_parallel([fail, signal.pause], 2))


def test_a_process_that_is_killed_is_told_in_one_line_with_the_remedy():
    with pytest.raises(ValueError, match=r"^one of 2 processes was killed, most likely for lack of memory; .*--jobs"):
        list(run_parallel([lambda: os.kill(os.getpid(), signal.SIGKILL), os.getpid], 2))


def test_processes_end_when_the_one_that_started_them_is_killed():
    ready, started = os.pipe()  # open for writing while one of them lives

    def begin():
        os.write(started, b"x")
        signal.pause()

    if not (parent := os.fork()):
        try:
            list(run_parallel([begin, begin], 2))
        finally:
            os._exit(1)
    os.close(started)
    assert os.read(ready, 1) + os.read(ready, 1) == b"xx"
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    assert os.read(ready, 1) == b""
    os.close(ready)

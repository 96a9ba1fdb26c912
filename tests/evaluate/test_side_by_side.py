"""Work in forked processes: results, errors and losses."""

import os
import signal

import pytest

from fourm_engine.evaluate.side_by_side import side_by_side


def test_results_come_with_their_numbers_from_processes_of_their_own():
    found = dict(side_by_side([os.getpid] * 3, 2))
    assert sorted(found) == [0, 1, 2]
    assert len({*found.values(), os.getpid()}) == 4
    assert list(side_by_side([os.getpid], 1)) == [(0, os.getpid())]


def test_an_error_of_a_piece_is_raised_and_the_others_end():
    class Unsendable(ValueError):
        def __init__(self, one, two):
            super().__init__(f"{one} {two}")

    def fail():
        raise Unsendable("no", "data")

    with pytest.raises(ValueError, match=r"^no data$"):
        list(side_by_side([fail, signal.pause], 2))


def test_a_process_that_is_killed_is_told():
    with pytest.raises(RuntimeError, match="exit code -9"):
        list(side_by_side([lambda: os.kill(os.getpid(), signal.SIGKILL), os.getpid], 2))

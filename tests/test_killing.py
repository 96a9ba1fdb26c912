"""A process that tests kill: what `ends` says of it, and that none outlives its test."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.killing import ends


def test_work_ends_or_is_killed(tmp_path):
    assert ends(60, (tmp_path / "done").touch)
    assert (tmp_path / "done").is_file()
    assert not ends(0.05, time.sleep, 60)


def test_work_that_fails_or_exits_otherwise_fails_the_test(capfd):
    with pytest.raises(AssertionError):
        ends(60, int, "no number")
    assert "invalid literal" in capfd.readouterr().err
    with pytest.raises(AssertionError):
        ends(60, os._exit, 3)


def test_nothing_goes_on_when_the_test_is_ended_meanwhile(tmp_path):
    def work():
        (tmp_path / "pid").write_text(str(os.getpid()))
        time.sleep(60)

    def out_of_time(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, out_of_time)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(TimeoutError):
            ends(60, work)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)

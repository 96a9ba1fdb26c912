"""Signals that ask a run to stop."""

import signal

import pytest

from fourm_engine.train import distributed, stopping
from fourm_engine.train.distributed import describe, together
from fourm_engine.train.stopping import stop_requests


@pytest.fixture
def clock(monkeypatch):
    seconds = [1e9]
    monkeypatch.setattr(stopping.time, "monotonic", lambda: seconds[0])
    return seconds


def test_the_echo_of_a_signal_is_the_same_request_and_a_later_one_acts_at_once(clock):
    ends = signal.signal(signal.SIGTERM, lambda number, _: (_ for _ in ()).throw(SystemExit(128 + number)))
    try:
        with stop_requests() as request:
            for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGUSR1):
                signal.raise_signal(number)
                clock[0] += 0.4 * stopping.ECHO
            assert request["signal"] == signal.SIGTERM
            with pytest.raises(SystemExit, match="143"):
                signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, ends)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (KeyboardInterrupt(), "stopped by SIGINT"),
        (SystemExit(128 + signal.SIGTERM), "stopped by SIGTERM"),
        (SystemExit(3), "exit code 3"),
        (SystemExit(None), "exit code None"),
        (SystemExit("no"), "exit code no"),
    ],
)
def test_other_processes_are_told_which_signal_ended_this_one(error, words):
    assert describe(error) == words


def test_a_signal_is_raised_though_the_others_have_ended_by_it_before_they_could_be_told(monkeypatch):
    """Ctrl-C reaches all processes at once, during the start, say."""

    def broken(*args):
        raise RuntimeError("gloo: Connection closed by peer")

    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(distributed, "gather_json", broken)
    with pytest.raises(KeyboardInterrupt):
        together(interrupted)
    with pytest.raises(RuntimeError, match="Connection closed"):
        together(lambda: None)

"""Signals that ask a run to stop."""

import signal

import pytest

from fourm_engine.train import stopping
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

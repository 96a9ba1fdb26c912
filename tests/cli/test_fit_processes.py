"""Token spaces fitted in processes of their own: one that fails is named, and a stop reaches all of them once."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import pytest

from fourm_engine.cli.tokenizer import _fit_in_processes


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Put a shell script in place of Python; its last argument is the token space."""

    def put(body: str) -> None:
        script = tmp_path / "program"
        script.write_text(f'#!/bin/sh\nfor space; do :; done\ncd "{tmp_path}"\n{body}\n')
        script.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(script))

    return put


def test_all_are_fitted_and_those_that_fail_are_named(tmp_path, program):
    program('touch "$space"; [ "$space" != b ]')
    with pytest.raises(ValueError, match=r"fitting failed for b; the reason is above"):
        _fit_in_processes(tmp_path, [], ["a", "b", "c"], 2)
    assert all((tmp_path / space).exists() for space in "abc")


@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_a_stop_lets_those_that_run_save_and_starts_no_other(tmp_path, program, number, error):
    # A second signal would find the handler gone and end the process before it has saved.
    program(
        'trap "trap - TERM; sleep 0.3; touch $space.saved; exit 143" TERM; touch "$space"; while :; do sleep 0.1; done'
    )

    def stop():
        while not ((tmp_path / "a").exists() and (tmp_path / "b").exists()):
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    threading.Thread(target=stop, daemon=True).start()
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(error):
        _fit_in_processes(tmp_path, [], ["a", "b", "c"], 2)
    assert sorted(path.name for path in tmp_path.glob("*.saved")) == ["a.saved", "b.saved"]
    assert not (tmp_path / "c").exists()
    assert signal.getsignal(signal.SIGTERM) == before

"""Token spaces fitted in processes of their own: one that fails is named, and a stop reaches all of them once."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import pytest

from fourm_engine.recipes import fit as fit_jobs
from fourm_engine.recipes.fit import FitReport, fit_in_processes, least_busy, visible_gpus


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
        fit_in_processes(tmp_path, [], ["a", "b", "c"], 2)
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
        fit_in_processes(tmp_path, [], ["a", "b", "c"], 2)
    assert sorted(path.name for path in tmp_path.glob("*.saved")) == ["a.saved", "b.saved"]
    assert not (tmp_path / "c").exists()
    assert signal.getsignal(signal.SIGTERM) == before


def test_jobs_are_spread_over_the_gpus_that_are_visible(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-5a,-1,7")
    assert visible_gpus() == ["3", "GPU-5a"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert visible_gpus() == ["0", "1"]
    taken: list[str] = []
    for _ in range(5):
        taken.append(least_busy(["0", "1"], taken))
    assert taken == ["0", "1", "0", "1", "0"]
    assert least_busy(["0", "1"], ["0", "1", "0"]) == "1"
    assert least_busy([], []) is None


def test_each_job_sees_one_gpu_and_those_on_the_cpu_what_was_visible(tmp_path, program, monkeypatch, capfd):
    monkeypatch.setattr(fit_jobs, "visible_gpus", lambda: ["3", "5"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    program('echo "$CUDA_VISIBLE_DEVICES" > "$space"; while ! [ -e c ] && [ "$space" != d ]; do sleep 0.02; done')
    fit_in_processes(tmp_path, [], ["a", "b", "c", "d"], 3, on_gpu={"a", "b", "c"})
    assert [(tmp_path / space).read_text().strip() for space in "abcd"] == ["3", "5", "3", "3,5"]
    assert "tokenizer b: on GPU 5" in capfd.readouterr().out


def test_a_modality_without_metrics_is_not_said_to_have_no_samples():
    report = FitReport("space", True, 3.0, [], {}, {"a": {"mse": 0.5}, "b": {}})
    assert report.lines() == [
        "tokenizer space, a: mse 0.5 (fitted in 3 s)",
        "tokenizer space, b: no held-out scores (fitted in 3 s)",
    ]

"""torchrun starts the processes of a run again, and the run goes on by itself."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.distributed.launching import ROOT
from tests.running import losses

SETTINGS = {"steps": 20, "checkpoint_every": 2}
MODEL = "model.safetensors"


def torchrun(*arguments: str, run: Path, options: dict | None = None, **changes) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    settings = json.dumps(SETTINGS | changes)
    program = [str(ROOT / "tests/train/toy_task.py"), str(run), settings, json.dumps(options or {})]
    command = [sys.executable, "-m", "torch.distributed.run", *arguments, *program]
    return subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True
    )


@pytest.mark.slow
def test_torchrun_starts_a_run_again_that_lost_a_process(tmp_path):
    options = {"kill_at": 9, "only_on_rank": "1", "first_start_only": True}
    cut = torchrun("--standalone", "--nproc-per-node=2", "--max-restarts=1", run=tmp_path / "cut", options=options)
    _, said = cut.communicate(timeout=400)
    assert cut.returncode == 0, said
    assert "continuing after step " in said
    whole = torchrun("--standalone", "--nproc-per-node=2", run=tmp_path / "whole")
    assert whole.wait(timeout=400) == 0
    first, second = (load_file(tmp_path / name / MODEL) for name in ("cut", "whole"))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_a_run_that_loses_a_machine_goes_on_by_itself_with_those_that_are_left(tmp_path):
    """Two of torchrun's agents stand for two machines; one of them dies with its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meet = (f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=run", "--rdzv-conf=last_call_timeout=5")
    arguments = ("--nnodes=1:2", "--nproc-per-node=1", "--max-restarts=3", "--rdzv-backend=c10d", *meet)
    options = {"slow": 0.2, "silent": 5}

    def agent() -> subprocess.Popen:
        return torchrun(*arguments, run=tmp_path / "cut", options=options, steps=60, watchdog_s=5.0)

    first = agent()
    wait_for(lambda: listening(port), first)  # the rendezvous lives in this one, and dies with it
    second = agent()
    try:
        metrics = tmp_path / "cut/metrics.jsonl"
        wait_for(lambda: metrics.exists() and metrics.read_text().count("\n") > 5, first, second)
        signs = [json.loads(path.read_text()) for path in (tmp_path / "cut/processes").glob("*.json")]
        (worker,) = (sign["pid"] for sign in signs if parent(sign["pid"]) == second.pid)
        for process in (second.pid, worker):
            os.kill(process, signal.SIGKILL)
        _, said = first.communicate(timeout=400)
    finally:
        for agent in (first, second):
            with suppress(ProcessLookupError):
                os.killpg(agent.pid, signal.SIGKILL)
    assert first.returncode == 0, said
    assert "continuing after step " in said
    assert json.loads((tmp_path / "cut/run.json").read_text())["processes"] == 1
    whole = torchrun("--standalone", "--nproc-per-node=2", run=tmp_path / "whole", steps=60)
    assert whole.wait(timeout=400) == 0
    assert losses(tmp_path / "cut") == pytest.approx(losses(tmp_path / "whole"), rel=1e-5)


def parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for(done, *processes: subprocess.Popen) -> None:
    last = time.monotonic() + 300
    while not done():
        assert time.monotonic() < last
        assert all(process.poll() is None for process in processes)
        time.sleep(0.05)

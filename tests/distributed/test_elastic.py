"""torchrun starts the processes of a run again, and the run goes on by itself."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.distributed.launching import ROOT

SETTINGS = {"steps": 20, "checkpoint_every": 2}
MODEL = "model.safetensors"


def torchrun(*arguments: str, run: Path, options: dict | None = None) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    program = [str(ROOT / "tests/train/toy_task.py"), str(run), json.dumps(SETTINGS), json.dumps(options or {})]
    command = [sys.executable, "-m", "torch.distributed.run", *arguments, *program]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


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
def test_a_run_that_lost_a_machine_goes_on_in_fewer_processes(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nodes = ["--nnodes=1:2", "--nproc-per-node=1", "--max-restarts=3", "--rdzv-backend=c10d", "--rdzv-id=toy"]
    agents = []
    for _ in range(2):
        agents.append(torchrun(*nodes, f"--rdzv-endpoint=localhost:{port}", run=tmp_path, options={"slow": 0.5}))
        time.sleep(5)  # the first one keeps the store, and is not the one that is lost
    last = time.monotonic() + 300
    while len(list((tmp_path / "checkpoints").glob("step-????????"))) < 2:
        assert time.monotonic() < last
        time.sleep(0.1)
    facts = json.loads((tmp_path / "processes/rank-00001.json").read_text())
    assert facts["moves"] > 0
    agents[1].send_signal(signal.SIGKILL)
    for rank in (0, 1):
        path = tmp_path / f"processes/rank-{rank:05d}.json"
        pid = json.loads(path.read_text())["pid"]
        parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
        if parent != str(agents[0].pid):
            os.kill(pid, signal.SIGKILL)
    _, said = agents[0].communicate(timeout=400)
    assert agents[0].returncode == 0, said
    assert "continuing after step " in said
    assert (tmp_path / MODEL).exists()

"""torchrun starts the processes of a run again, and the run goes on by itself.

Each of several machines has `TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1`, as in `examples/paper/torchrun.sh`. Without it,
with torch 2.13, one that joins after the first start waits a minute for an address that nobody writes: the run ends."""

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
    environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
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


@pytest.fixture
def machine(tmp_path):
    """Starts one of torchrun's agents, which stand for machines, of a run of one process each. The rendezvous lives in
    the first, and dies with it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meet = ("--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=run")
    arguments = ("--nnodes=1:2", "--nproc-per-node=1", "--max-restarts=3", *meet, "--rdzv-conf=last_call_timeout=5")
    options, agents = {"slow": 0.2, "silent": 5}, list[subprocess.Popen]()

    def start(steps: int) -> subprocess.Popen:
        agents.append(torchrun(*arguments, run=tmp_path / "cut", options=options, steps=steps, watchdog_s=5.0))
        wait_for(lambda: listening(port), *agents)
        return agents[-1]

    yield start
    for agent in agents:
        with suppress(ProcessLookupError):
            os.killpg(agent.pid, signal.SIGKILL)


@pytest.mark.slow
def test_a_run_that_loses_a_machine_goes_on_by_itself_with_those_that_are_left(tmp_path, machine):
    """Whether the second machine comes within the last call of the first start, or joins later."""
    first, second = machine(steps=100), machine(steps=100)
    wait_for(lambda: learning(tmp_path / "cut", second), first, second)
    (worker,) = (sign["pid"] for sign in signs(tmp_path / "cut") if parent(sign["pid"]) == second.pid)
    for process in (second.pid, worker):
        os.kill(process, signal.SIGKILL)
    _, said = first.communicate(timeout=400)
    assert first.returncode == 0, said
    assert "continuing after step " in said
    assert json.loads((tmp_path / "cut/run.json").read_text())["processes"] == 1
    check_undisturbed(tmp_path, steps=100)


@pytest.mark.slow
def test_a_machine_that_joins_later_is_taken_in(tmp_path, machine):
    first = machine(steps=300)
    record = tmp_path / "cut/metrics.jsonl"
    wait_for(lambda: record.exists() and record.read_text(), first)  # it has begun alone
    second = machine(steps=300)
    said = [agent.communicate(timeout=400)[1] for agent in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), said
    assert "stopped by SIGTERM after step " in said[0]
    assert json.loads((tmp_path / "cut/run.json").read_text())["processes"] == 2
    check_undisturbed(tmp_path, steps=300)


def check_undisturbed(folder: Path, *, steps: int) -> None:
    """That the run has the losses of one that nothing disturbed."""
    whole = torchrun("--standalone", "--nproc-per-node=2", run=folder / "whole", steps=steps)
    assert whole.wait(timeout=400) == 0
    assert losses(folder / "cut") == pytest.approx(losses(folder / "whole"), rel=1e-4)


def signs(run: Path) -> list[dict]:
    there = []
    for path in (run / "processes").glob("*.json"):
        with suppress(OSError, ValueError):  # removed or replaced just now
            there.append(json.loads(path.read_text()))
    return there


def learning(run: Path, agent: subprocess.Popen) -> bool:
    """Whether a process of this agent has done some steps."""
    with suppress(OSError):
        return any(sign["step"] > 5 and parent(sign["pid"]) == agent.pid for sign in signs(run))
    return False


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

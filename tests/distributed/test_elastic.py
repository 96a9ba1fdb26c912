"""torchrun starts the processes of a run again, and the run goes on by itself."""

import json
import os
import subprocess
import sys
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

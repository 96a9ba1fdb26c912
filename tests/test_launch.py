"""A command whose processes are not told their ranks ends at once, with a line."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from fourm_engine.device import LaunchError, check_launch
from fourm_engine.lock import at_work

SRUN = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "0"}


@pytest.fixture
def tell(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return lambda variables: [monkeypatch.setenv(name, value) for name, value in variables.items()]


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({"RANK": "1"}, "RANK=1 without WORLD_SIZE; start the processes with torchrun, which sets all of them"),
        ({"RANK": "0"}, "RANK=0 without WORLD_SIZE"),
        ({"LOCAL_RANK": "1"}, "LOCAL_RANK=1 without WORLD_SIZE"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2 without RANK"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK=2 is not below WORLD_SIZE=2"),
        ({"WORLD_SIZE": "0", "RANK": "0"}, "RANK=0 is not below WORLD_SIZE=0"),
        ({"WORLD_SIZE": "2", "RANK": "-1"}, "RANK='-1' is not a number"),
        ({"WORLD_SIZE": "two", "RANK": "0"}, "WORLD_SIZE='two' is not a number"),
        ({"LOCAL_RANK": "$SLURM_LOCALID"}, "LOCAL_RANK='$SLURM_LOCALID' is not a number"),
        (SRUN, "srun started 4 processes without RANK and WORLD_SIZE, so that each would work alone; let each run: "),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "mpirun started 2 processes without RANK and WORLD_SIZE"),
    ],
)
def test_ranks_that_do_not_fit_are_one_line_before_a_folder_is_touched(tmp_path, tell, variables, line):
    tell(variables)
    with pytest.raises(LaunchError, match="^" + re.escape(line)), at_work(tmp_path / "run"):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"RANK": "", "WORLD_SIZE": ""},
        {"WORLD_SIZE": "1"},
        {"LOCAL_RANK": "0"},
        {"WORLD_SIZE": "2", "RANK": "1"},
        {**SRUN, "WORLD_SIZE": "1"},
        {**SRUN, "SLURM_STEP_NUM_TASKS": "1"},
        {"SLURM_NTASKS": "4"},  # a batch script, which is one process
        {**SRUN, "WORLD_SIZE": "8", "RANK": "7", "LOCAL_RANK": "7"},
    ],
)
def test_ranks_that_fit_are_accepted(tell, variables):
    tell(variables)
    check_launch()


def test_of_the_processes_of_srun_one_says_so(tmp_path, tell):
    ends = []
    for number in ("0", "3"):
        tell({**SRUN, "SLURM_PROCID": number})
        command = [sys.executable, "-m", "fourm_engine.cli", "plugins", "new", "some", "--into", str(tmp_path)]
        ended = subprocess.run(command, capture_output=True, text=True)
        ends.append((ended.returncode, ended.stderr.partition(" without")[0]))
    assert ends == [(1, "fourm: error: srun started 4 processes"), (1, "")]

"""How many CPU threads a command computes with: what is set, what the environment says, or what is fastest now."""

from __future__ import annotations

import ctypes
import logging
import os
import subprocess
import sys

import pytest
import torch

from fourm_engine import device
from fourm_engine.device import fastest_threads, settle_threads
from fourm_engine.recipes import progress
from fourm_engine.train import distributed
from fourm_engine.train.distributed import processes
from tests.train.toy_task import config


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """As in a process that has settled nothing, on a machine of 8 cores without OMP_NUM_THREADS."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(device, "_threads", device._Threads())
    monkeypatch.setattr(device, "usable_cores", lambda: 8)
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(variable, raising=False)
    yield
    torch.set_num_threads(threads)


def clocked(monkeypatch, seconds):
    """A machine on which a pass on `n` threads lasts `seconds(n)`; returns the numbers of threads that were tried."""
    now, tried = [0.0], []

    def grad(*arguments):
        tried.append(torch.get_num_threads())
        now[0] += seconds(tried[-1])

    monkeypatch.setattr(torch.autograd, "grad", grad)
    monkeypatch.setattr(device.time, "perf_counter", lambda: now[0])
    return tried


def test_free_cores_are_used_as_far_as_they_help(monkeypatch):
    clocked(monkeypatch, lambda n: 0.1 / min(n, 4))
    assert fastest_threads(8, width=16) == 4
    assert fastest_threads(2, width=16) == 2
    assert fastest_threads(3, width=16) == 3


def test_on_a_busy_machine_one_thread_is_chosen_at_the_first_sign_of_waiting(monkeypatch):
    before = torch.get_num_threads()
    tried = clocked(monkeypatch, lambda n: 0.1 if n == 1 else 0.9)
    assert fastest_threads(8, width=16) == 1
    assert tried.count(2) == 1
    assert torch.get_num_threads() == before


def test_a_real_measurement_takes_a_moment_and_leaves_random_numbers_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    assert fastest_threads(2, width=32) in (1, 2)
    assert torch.equal(torch.rand(2), expected)


def test_what_is_set_wins_over_the_environment_and_that_over_measuring(monkeypatch):
    monkeypatch.setattr(device, "fastest_threads", lambda most, width: most)
    assert settle_threads().startswith("8 CPU threads (measured: 8 cores")
    assert torch.get_num_threads() == 8
    assert settle_threads() == ""  # said once, measured once
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert settle_threads() == "3 CPU threads (OMP_NUM_THREADS)"
    assert settle_threads(1) == "1 CPU thread (set)"
    assert torch.get_num_threads() == 1
    assert settle_threads() == "3 CPU threads (OMP_NUM_THREADS)"


def test_processes_of_one_machine_share_its_cores(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr(device, "fastest_threads", lambda most, width: most)
    assert settle_threads().startswith("2 CPU threads")


def test_a_run_says_its_threads_and_measures_for_its_width(monkeypatch, capsys):
    widths = []
    monkeypatch.setattr(device, "fastest_threads", lambda most, width: widths.append(width) or 2)
    with processes(config(), width=48):
        assert torch.get_num_threads() == 2
        with processes(config()):  # that of the trainer
            pass
    assert widths == [48]
    assert capsys.readouterr().err.count("2 CPU threads (measured: 8 cores") == 1
    with processes(config(threads=1)):
        assert torch.get_num_threads() == 1


def test_commands_that_do_not_train_choose_alike_and_log_it(monkeypatch, caplog):
    monkeypatch.setattr(device, "fastest_threads", lambda most, width: 2)
    with caplog.at_level(logging.INFO):
        progress.choose_threads("cpu")
    assert torch.get_num_threads() == 2
    assert "2 CPU threads (measured: 8 cores" in caplog.text


@pytest.mark.parametrize("recipe", ["generate", "evaluate", "evaluate_tokenizers", "tokenize", "label"])
def test_every_command_that_computes_settles_its_threads(recipe):
    import inspect

    from fourm_engine import recipes

    assert "choose_threads(" in inspect.getsource(__import__(f"{recipes.__name__}.{recipe}", fromlist=[""]))


FAULTS = """
import ctypes, resource, sys
from fourm_engine.device import keep_memory
if sys.argv[1] == "keep":
    keep_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
for turn in range(6):
    if turn == 1:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    memory = libc.malloc(100 << 20)
    libc.memset(memory, 1, 100 << 20)
    libc.free(memory)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="of glibc")
def test_memory_that_a_step_frees_is_there_in_the_next_one():
    """Page faults of five allocations after the first."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}

    def faults(how: str) -> int:
        command = [sys.executable, "-c", FAULTS, how]
        return int(subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout)

    keep, leave = faults("keep"), faults("leave")
    assert keep < 100
    assert leave > 100


def test_a_run_on_a_cpu_keeps_its_memory(monkeypatch, tmp_path):
    called = []
    monkeypatch.setattr(distributed, "keep_memory", lambda: called.append(True))
    with processes(config(threads=1)):
        assert called

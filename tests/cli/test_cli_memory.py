"""A device that is out of memory ends a command with one line."""

import sys

import numpy as np
import pytest
import torch

from fourm_engine.cli import app, main, out_of_memory

GPU = torch.OutOfMemoryError(
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which 5.06 GiB is "
    "free. Including non-PyTorch memory, this process has 74.04 GiB memory in use. See PYTORCH_CUDA_ALLOC_CONF"
)


def run(error, command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["fourm", command, "config.yaml"])
    monkeypatch.setattr(app, "app", lambda: (_ for _ in ()).throw(error))
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code, capsys.readouterr().err


@pytest.mark.parametrize(("command", "setting"), [("train", "train.accumulate"), ("generate", "--batch-size")])
def test_a_full_gpu_is_one_line_with_the_settings_that_need_less(command, setting, monkeypatch, capsys):
    code, said = run(GPU, command, monkeypatch, capsys)
    assert code == 1
    assert said.count("\n") == 1
    assert "Tried to allocate 20.00 GiB" in said
    assert setting in said
    assert "non-PyTorch" not in said


def test_only_a_command_that_has_a_dry_run_is_told_of_it():
    assert "--dry-run" in out_of_memory.out_of_memory(GPU, ["train"])
    assert "--dry-run" not in out_of_memory.out_of_memory(GPU, ["extend"])


def test_memory_that_a_cpu_lacks_is_told_alike():
    with pytest.raises(RuntimeError) as raised:
        torch.empty(10**15)
    line = out_of_memory.out_of_memory(raised.value, ["tokenize"])
    assert "tried to allocate 4000000000000000 bytes" in line
    assert out_of_memory.ELSEWHERE in line
    assert out_of_memory.out_of_memory(raised.value, ["generate"]).endswith("; lower --batch-size")


def test_so_is_memory_that_arrays_and_lists_lack(monkeypatch, capsys):
    with pytest.raises(MemoryError) as raised:
        np.empty(10**17)
    for error in (raised.value, MemoryError()):
        code, said = run(error, "train", monkeypatch, capsys)
        assert code == 1
        assert said.startswith("fourm: error: out of memory")
        assert out_of_memory.REMEDIES["train"] in said
    assert "out of memory; raise" in said


def test_any_other_error_is_a_bug_with_its_traceback(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["fourm", "train"])
    monkeypatch.setattr(app, "app", lambda: (_ for _ in ()).throw(RuntimeError("mat1 and mat2")))
    with pytest.raises(RuntimeError, match="mat1"):
        main()

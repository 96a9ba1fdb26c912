"""A disk that is too full for what a run writes is told before the run begins, and the run goes on."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fourm_engine.train import disk
from tests.train.toy_task import config, train

MIB = 2**20


@pytest.fixture
def free(monkeypatch):
    def make(size):
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=size * MIB))

    return make


@pytest.mark.parametrize(
    ("saved", "enough", "step"),
    [(None, 32, 50), (10, 24, 50), (50, 24, 70)],  # of 8 MiB weights: with two moments, and exported
)
def test_the_next_checkpoint_and_the_trained_model_must_fit(tmp_path, free, saved, enough, step):
    network, settings = torch.nn.Linear(2 * MIB, 1, bias=False), config(ema=None, checkpoint_every=50)
    run = tmp_path / "not/there/yet"
    free(enough)
    assert disk.disk_shortage(run, settings, network, steps=70, saved=saved) == ""
    free(enough - 1)
    said = f"{run}: {enough - 1} MiB of the disk are free, a checkpoint takes 24 MiB and the trained model 8 MiB; "
    assert disk.disk_shortage(run, settings, network, steps=70, saved=saved).startswith(
        f"{said}free space before step {step}, "
    )


def test_a_run_says_so_before_its_first_step(tmp_path, free, caplog, capsys):
    free(0)
    train(tmp_path / "run", steps=2, warmup=1)
    assert f"{tmp_path / 'run'}: 0 MiB of the disk are free" in caplog.text
    assert Path(tmp_path / "run/finished.json").is_file()

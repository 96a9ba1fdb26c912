"""A disk that is too full for what a run writes is told before the run begins, and the run goes on."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fourm_engine.train import disk_space
from tests.train.toy_task import config, train

MIB = 2**20


@pytest.fixture
def free(monkeypatch):
    def make(size):
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=size * MIB))

    return make


@pytest.mark.parametrize(
    ("settings", "saved", "enough", "said"),  # MiB; 8 of weights, with two moments 24 a checkpoint
    [
        (
            {},
            None,
            3 * 24,
            "each of 3 more checkpoints takes 24 MiB and the trained model 8 MiB; free space before step 30",
        ),
        (
            {},
            10,
            2 * 24,
            "each of 2 more checkpoints takes 24 MiB and the trained model 8 MiB; free space before step 30",
        ),
        ({}, 40, 24, "a checkpoint takes 24 MiB and the trained model 8 MiB; free space before step 50"),
        ({}, 60, 24, "a checkpoint takes 24 MiB and the trained model 8 MiB; free space before step 70"),
        ({"keep": 9}, None, 7 * 24 + 8, "each of 7 more checkpoints takes 24 MiB"),
        ({"keep_every": 20}, None, 5 * 24, "each of 5 more checkpoints takes 24 MiB"),
        ({"keep_every": 20}, 40, 2 * 24, "each of 2 more checkpoints takes 24 MiB"),
        (
            {"checkpoint_every": 100},
            None,
            32,
            "a checkpoint takes 24 MiB and the trained model 8 MiB; free space before step 70",
        ),
        (
            {"checkpoint_every": 100, "keep_best": True},
            None,
            40,
            "a checkpoint takes 24 MiB and the trained model 16 MiB",
        ),
    ],
)
def test_the_checkpoints_that_are_kept_and_the_trained_model_must_fit(tmp_path, free, settings, saved, enough, said):
    network, settings = torch.nn.Linear(2 * MIB, 1, bias=False), config(ema=None, **{"checkpoint_every": 10} | settings)
    run = tmp_path / "not/there/yet"
    for step in kept_after(settings, saved or 0):
        (run / f"checkpoints/step-{step:08d}").mkdir(parents=True)
    free(enough)
    assert disk_space.disk_shortage(run, settings, network, steps=70, saved=saved) == ""
    free(enough - 1)
    line = disk_space.disk_shortage(run, settings, network, steps=70, saved=saved)
    assert line.startswith(f"{run}: {enough - 1} MiB of the disk are free, {said}")


def kept_after(settings, saved):
    """The steps of the checkpoints that rotation leaves, one by one."""
    every = settings.checkpoint_every
    there = list(range(every, saved + 1, every))
    return [s for s in there if s in there[-settings.keep :] or (settings.keep_every and s % settings.keep_every == 0)]


@pytest.mark.parametrize("keep", [1, 2, 5])
@pytest.mark.parametrize("keep_every", [None, 10, 30])
def test_as_many_checkpoints_are_expected_as_rotation_leaves(keep, keep_every):
    settings = config(checkpoint_every=10, keep=keep, keep_every=keep_every)
    for saves in range(1, 20):
        assert disk_space.checkpoints_kept(settings, saves) == len(kept_after(settings, 10 * saves))


def test_a_run_says_so_before_its_first_step(tmp_path, free, caplog, capsys):
    free(0)
    train(tmp_path / "run", steps=2, warmup=1)
    assert f"{tmp_path / 'run'}: 0 MiB of the disk are free" in caplog.text
    assert Path(tmp_path / "run/finished.json").is_file()

"""Two processes learn a task as one does, whichever way the model lies over them."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from tests.distributed.launching import launch
from tests.running import losses
from tests.transfer.heads import captioned, config, retrieval, run, scores


def test_a_sharded_run_learns_what_one_process_learns_and_measures_every_sample(source, pictures, tmp_path):
    task = {"kind": "classification", "mixup": 0.4}
    train = {"batch_size": 4, "steps": 4, "keep_best": True, "parallel": "shard"}
    one = run(config(tmp_path / "one", source, pictures, task, train=train))
    path = config(tmp_path / "two", source, pictures, task, train=train)
    launch("transfer/finetune_run.py", str(path), world=2)
    two = tmp_path / "two/run"
    for part in ("head", "best/head"):
        a, b = (load_file(folder / part / "model.safetensors") for folder in (one, two))
        for name in a:
            torch.testing.assert_close(a[name], b[name], atol=1e-4, rtol=1e-4)
    assert scores(two).keys() == scores(one).keys()
    assert abs(scores(two)["cross-entropy"] - scores(one)["cross-entropy"]) < 1e-4


def test_two_processes_contrast_all_samples_of_a_batch_as_one_process_does(source, tmp_path):
    pairs = captioned(tmp_path / "pairs", each=3)
    train = {"batch_size": 6, "steps": 4, "eval_every": 2, "parallel": "shard"}
    one = run(retrieval(tmp_path / "one", source, pairs, train=train))
    path = retrieval(tmp_path / "two", source, pairs, train=train)
    launch("transfer/finetune_run.py", str(path), world=2)
    two = tmp_path / "two/run"
    a, b = (load_file(folder / "head/model.safetensors") for folder in (one, two))
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=1e-4, rtol=1e-4)
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)
    assert scores(two) == pytest.approx(scores(one))

"""Muon over two processes: the products need whole matrices, wherever their rows are."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from tests.distributed.launching import launch


def train(run, world, *, fail=False, options=None, **changes):
    options = json.dumps({"poison": [3], **(options or {})})  # that step is skipped
    launch("train/blocks_task.py", str(run), json.dumps(changes), options, world=world, fail=fail)
    return None if fail else load_file(run / "model.safetensors")


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    return train(tmp_path_factory.mktemp("single"), 1)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    return train(tmp_path_factory.mktemp("sharded"), 2, parallel="shard")


def assert_close(a, b):
    for name, tensor in a.items():
        torch.testing.assert_close(tensor, b[name], atol=2e-4, rtol=1e-3)


def test_two_processes_with_muon_learn_what_one_learns(tmp_path, single, sharded):
    assert_close(train(tmp_path, 2), single)
    assert_close(sharded, single)


def test_a_sharded_run_with_muon_resumes_bit_for_bit_and_on_one_process(tmp_path, single, sharded):
    train(tmp_path / "two", 2, parallel="shard", checkpoint_every=6, fail=True, options={"stop_at": 9})
    shutil.copytree(tmp_path / "two", tmp_path / "one")
    resumed = train(tmp_path / "two", 2, parallel="shard")
    assert all(torch.equal(resumed[name], tensor) for name, tensor in sharded.items())
    assert_close(train(tmp_path / "one", 1), single)

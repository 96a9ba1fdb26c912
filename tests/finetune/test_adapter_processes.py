"""Adapters learn the same on several processes as on one, however the model lies over them, and when resumed."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from tests.distributed.launching import launch
from tests.finetune.based import TRAIN, config_of
from tests.finetune.double_run import train_double

LORA = {"lora": {"rank": 2, "alpha": 4.0}}


def tensors(run):
    return {part: load_file(run / part) for part in ("adapter/adapter.safetensors", "model/model.safetensors")}


def assert_equal(run, reference):
    for part, expected in tensors(reference).items():
        for name, tensor in tensors(run)[part].items():
            torch.testing.assert_close(tensor, expected[name], rtol=1e-6, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")


@pytest.fixture(scope="module")
def one(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("one")
    train_double(config_of(folder, out, finetune=LORA, train={"ema": 0.9}))
    return out / "run"


@pytest.mark.parametrize("parallel", ["replicate", "shard"])
def test_two_processes_learn_the_adapters_of_one(folder, one, tmp_path, parallel):
    settings = {"ema": 0.9, "parallel": parallel}
    launch("finetune/double_run.py", str(config_of(folder, tmp_path, finetune=LORA, train=settings)), world=2)
    assert_equal(tmp_path / "run", one)
    base = load_file(folder / "base/model/model.safetensors")
    learned = load_file(one / "model/model.safetensors")
    assert not torch.equal(learned["encoder.0.attn.qkv.weight"], base["encoder.0.attn.qkv.weight"])


def test_a_run_that_is_resumed_on_two_processes_learns_the_adapters_of_one(folder, one, tmp_path):
    for world, steps, parallel in ((1, 2, "replicate"), (2, TRAIN["steps"], "shard")):
        settings = {"ema": 0.9, "schedule": "constant", "parallel": parallel, "steps": steps}
        config = config_of(folder, tmp_path, finetune=LORA, train=settings)
        launch("finetune/double_run.py", str(config), world=world)
    reference = tmp_path / "reference"
    train_double(config_of(folder, reference, finetune=LORA, train={"ema": 0.9, "schedule": "constant"}))
    assert_equal(tmp_path / "run", reference / "run")

"""Several processes learn what one learns, however the model lies over them."""

import json
import sys

import pytest
import torch
from safetensors.torch import load_file

from fourm_engine.tokenizers import store
from tests.distributed.equal_cases import train
from tests.distributed.launching import ROOT, launch, run
from tests.fakes import fake_modalities, sample_names, write_data
from tests.pretrain.fourm_run import Host
from tests.running import losses

AVERAGED = {"ema": 0.9, "clip": 0.05, "accumulate": 2}
MUON = {"optimiser": "muon", "clip": 1.0}
BF16 = {"precision": "bf16"}
STEM = {"stem": "conv"}
#: What one process is given, and two.
CASES = {
    "replicated": ({}, {}),
    "replicated, apart": ({}, {}),
    "sharded": ({}, {"parallel": "shard"}),
    "accumulated": ({}, {"accumulate": 2}),
    "checkpointed": ({}, {"parallel": "shard", "activation_checkpointing": "full"}),
    "checkpointed in part": ({}, {"parallel": "shard", "accumulate": 2, "activation_checkpointing": "selective"}),
    "averaged and clipped": (AVERAGED, AVERAGED),
    "averaged, clipped and sharded": (AVERAGED, AVERAGED | {"parallel": "shard"}),
    "muon": (MUON, MUON),
    "muon sharded": (MUON, MUON | {"parallel": "shard", "activation_checkpointing": "full"}),
    "stems": (STEM, STEM),
    "stems sharded": (STEM, STEM | {"parallel": "shard"}),
    "bf16 sharded": (BF16, BF16 | {"parallel": "shard"}),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    names = sample_names(20)
    write_data(root / "train", fake_modalities(), {"a": names, "b": names[:8], "words": names[4:]})
    return root


@pytest.fixture(scope="module")
def one(data, tmp_path_factory):
    """From settings to the folder of a run of one process."""
    runs = tmp_path_factory.mktemp("one")
    made = {}

    def run(settings):
        key = json.dumps(settings, sort_keys=True)
        if key not in made:
            made[key] = runs / str(len(made))
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(store, "PluginManager", Host)
                train(data, made[key], settings)
        return made[key]

    return run


@pytest.fixture(scope="module")
def two(data, tmp_path_factory):
    """The folder of the runs of two processes, which are started once."""
    runs = tmp_path_factory.mktemp("two")
    cases = {name: settings for name, (_, settings) in CASES.items()}
    command = [sys.executable, str(ROOT / "tests/distributed/equal_cases.py"), str(data), str(runs), json.dumps(cases)]
    ended = run(command, world=2)
    assert not any(code for code, _, _ in ended), ended
    return runs


def weights(run):
    return load_file(run / "model/model.safetensors")


def assert_equal(run, reference):
    expected = weights(reference)
    for name, tensor in weights(run).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-6, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("case", CASES)
def test_two_processes_learn_what_one_learns(case, one, two):
    reference = one(CASES[case][0])
    if "bf16" in case:  # weights of the blocks are gathered in bf16, which gains of norms are not else
        assert losses(two / case) == pytest.approx(losses(reference), rel=2e-3)
        return
    assert_equal(two / case, reference)


@pytest.mark.slow
def test_four_processes_with_two_copies_and_a_run_resumed_on_1_2_4_and_2_learn_what_one_learns(data, one, tmp_path):
    settings = {"ema": 0.9, "clip": 0.05, "optimiser": "muon"}
    hybrid = {"parallel": "hybrid", "shard_over": 2}
    part = ({}, {"parallel": "shard"}, hybrid, {})
    for steps, world in enumerate((1, 2, 4, 2), start=1):
        cases = {"resumed": {**settings, **part[steps - 1], "steps": 2 * steps}}
        if world == 4:
            cases["hybrid"] = {**settings, **hybrid, "steps": 8}
        launch("distributed/equal_cases.py", str(data), str(tmp_path), json.dumps(cases), world=world)
    reference = one({**settings, "steps": 8})
    assert_equal(tmp_path / "hybrid", reference)
    assert_equal(tmp_path / "resumed", reference)

"""What a user may rely on where there is a GPU: `make test-gpu`, or `pytest -m gpu tests/gpu`. Each test compares with
the same in float32 on the CPU."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fourm_engine.generate.plan import Stage
from fourm_engine.generate.sampler import Sampler
from tests.distributed.launching import launch
from tests.fakes import fake_modalities, sample_names, write_data
from tests.generate.test_sampler import IDS, MODALITIES, sample
from tests.generate.toys import network
from tests.grids import ramps
from tests.tokenizers import test_divae, test_mlp, test_vqvae

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_data(root / "train", fake_modalities(), sample_names(20))
    write_data(root / "val", fake_modalities(), sample_names(9, start=100))
    return root


@pytest.fixture(scope="module")
def on_cpu(data, tmp_path_factory):
    return train(data, tmp_path_factory.mktemp("cpu"), device="cpu", precision="fp32")


def train(data, run, **settings):
    """(losses of the steps, exported weights)."""
    launch("pretrain/fourm_run.py", str(data), str(run), json.dumps(settings), world=1)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row], load_file(run / "model/model.safetensors")


@pytest.mark.parametrize("parallel", ["replicate", "shard"])
@pytest.mark.parametrize("activation_checkpointing", ["none", "selective", "full"])
def test_training_in_fp32_follows_the_cpu(data, on_cpu, tmp_path, parallel, activation_checkpointing):
    settings = {"parallel": parallel, "activation_checkpointing": activation_checkpointing}
    losses, weights = train(data, tmp_path, device=DEVICE.type, precision="fp32", **settings)
    assert losses == pytest.approx(on_cpu[0], abs=1e-3)
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, on_cpu[1][name], atol=5e-3, rtol=5e-3)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("parallel", ["replicate", "shard"])
def test_training_in_bf16_compiled_and_sharded_follows_fp32(data, on_cpu, tmp_path, parallel, compiled):
    losses, _ = train(data, tmp_path, device=DEVICE.type, precision="bf16", parallel=parallel, compile=compiled)
    assert losses == pytest.approx(on_cpu[0], rel=0.02)


def test_a_run_begun_on_the_gpu_goes_on_on_the_cpu(data, on_cpu, tmp_path):
    settings = {"schedule": "constant", "precision": "fp32"}
    whole, _ = train(data, tmp_path / "whole", device="cpu", **settings)
    train(data, tmp_path / "parts", device=DEVICE.type, steps=10, **settings)
    parts, _ = train(data, tmp_path / "parts", device="cpu", **settings)
    assert parts == pytest.approx(whole, abs=1e-3)


def picture():
    return test_vqvae.random_tokenizer(test_vqvae.map_spec(test_vqvae.features()))


def vector():
    return test_mlp.made()


@pytest.mark.parametrize("make", [picture, test_divae.make, vector])
def test_every_codec_gives_the_ids_and_values_of_the_cpu(make):
    here = make()
    there = copy.deepcopy(here).to(DEVICE)
    arrays = test_mlp.vectors(40) if make is vector else ramps(40)
    ids, theirs = here.encode(arrays), there.encode(arrays)
    differing = np.mean([one != other for one, other in zip(ids, theirs, strict=True)])
    assert differing < 0.005  # where two codes are equally near
    for one, other in zip(here.decode(ids), there.decode(ids), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-3)


def test_a_frozen_encoder_gives_in_training_the_ids_of_inference():
    tokenizer = test_divae.make().to(DEVICE)
    maps, seen = ramps(21), []
    expected, lookup = np.stack(tokenizer.encode(maps)), tokenizer.network.quantiser.lookup
    tokenizer.network.frozen = True
    tokenizer.network.quantiser.lookup = lambda ids: seen.append(ids) or lookup(ids)
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        tokenizer.network.train()(tokenizer.tensor(maps))
    np.testing.assert_array_equal(seen[0].cpu().numpy(), expected)


@pytest.mark.parametrize(
    "stage",
    [
        Stage(target="height", scheme="parallel", steps=4, temperature=0.0),
        Stage(target="height", scheme="random_order", steps=4, temperature=0.0, guidance=2.0),
        Stage(target="words", scheme="autoregressive", temperature=0.0),
        Stage(target="words", scheme="autoregressive", temperature=0.0, guidance=2.0),
    ],
)
def test_greedy_generation_gives_the_tokens_of_the_cpu(stage):
    net, vocabulary = network(MODALITIES)
    samplers = [
        Sampler(copy.deepcopy(net).to(device), vocabulary, sequences=IDS, inputs=set(MODALITIES))
        for device in ("cpu", DEVICE)
    ]
    here, there = (sampler.run([sample(0), sample(1)], [stage], [5, 6]) for sampler in samplers)
    for one, other in zip(here, there, strict=True):
        np.testing.assert_array_equal(one[stage.target].ids, other[stage.target].ids)

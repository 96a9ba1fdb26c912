"""What a user may rely on where there is a GPU: `make test-gpu`, or `pytest -m gpu tests/gpu`. Each test compares with
the same in float32 on the CPU."""

from __future__ import annotations

import copy
import gc
import gzip
import json
import subprocess
import sys
import warnings
from collections import Counter

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from fourm_engine.features.encoder import Encoder
from fourm_engine.generate.plan import Stage
from fourm_engine.generate.sampler import Sampler
from fourm_engine.nn.attention import attend
from fourm_engine.pretrain.soft_targets import alike
from fourm_engine.tokenizers import store
from fourm_engine.train import learner, loop, parallel
from fourm_engine.train.learner import Learner
from fourm_engine.train.loop import Trainer
from tests.fakes import fake_modalities, sample_names, write_data
from tests.generate import test_graphs
from tests.generate.test_sampler import IDS, MODALITIES, sample
from tests.generate.toys import heights, network, picture
from tests.grids import ramps
from tests.pretrain import fourm_run
from tests.pretrain.test_soft_targets import heads_of
from tests.tokenizers import test_divae, test_mlp, test_vqvae

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(autouse=True)
def compiled_anew():
    """Blocks of all tests share their code, for which torch compiles a bounded number of variants in a process."""
    yield
    torch.compiler.reset()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_data(root / "train", fake_modalities(), sample_names(20))
    write_data(root / "val", fake_modalities(), sample_names(9, start=100))
    return root


@pytest.fixture(scope="module")
def on_cpu(data, tmp_path_factory):
    return train(data, tmp_path_factory.mktemp("cpu"), device="cpu", precision="fp32")


def train(data, run, *, sharded=False, **settings):
    """(losses of the steps, exported weights). `sharded`: by FSDP2 over one process, where the trainer does without."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "PluginManager", fourm_run.Host)
        if sharded:
            patch.setattr(parallel, "is_sharded", lambda *_: True)
            patch.setattr(learner, "is_sharded", lambda *_: True)
            backend = "cpu:gloo,cuda:nccl" if DEVICE.type == "cuda" else "gloo"
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        try:
            Trainer(fourm_run.make_task(data), fourm_run.config(**settings), run, seed=3).run()
        finally:
            if sharded:
                dist.destroy_process_group()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row], load_file(run / "model/model.safetensors")


@pytest.mark.parametrize("activation_checkpointing", ["none", "selective", "full"])
def test_training_in_fp32_follows_the_cpu(data, on_cpu, tmp_path, activation_checkpointing):
    settings = {"precision": "fp32", "activation_checkpointing": activation_checkpointing}
    close_to(on_cpu, train(data, tmp_path, device=DEVICE.type, **settings))


@pytest.mark.parametrize("parallel", ["shard", "hybrid"])
def test_training_with_fsdp_in_fp32_follows_the_cpu(data, on_cpu, tmp_path, parallel):
    close_to(on_cpu, train(data, tmp_path, sharded=True, device=DEVICE.type, precision="fp32", parallel=parallel))


def close_to(on_cpu, on_gpu):
    assert on_gpu[0] == pytest.approx(on_cpu[0], abs=1e-3)
    for name, tensor in on_gpu[1].items():
        torch.testing.assert_close(tensor, on_cpu[1][name], atol=5e-3, rtol=5e-3)


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"compile": True},
        {"compile": True, "activation_checkpointing": "selective"},
        {"compile": True, "residual": "bf16"},
        {"optimiser": "muon", "ema": 0.9, "clip": 0.5, "accumulate": 2},
    ],
)
def test_training_in_bf16_follows_fp32(data, tmp_path, sharded, settings):
    only_here = ("compile", "activation_checkpointing", "residual")
    uncompiled = {key: value for key, value in settings.items() if key not in only_here}
    expected, _ = train(data, tmp_path / "cpu", device="cpu", precision="fp32", **uncompiled)
    losses, _ = train(data, tmp_path / "gpu", sharded=sharded, device=DEVICE.type, precision="bf16", **settings)
    assert losses == pytest.approx(expected, rel=0.02)


class Strict(Learner):
    """From the third step on, waiting for the GPU is an error."""

    def step(self, step, *arguments):
        torch.cuda.set_sync_debug_mode("error" if step > 1 else "default")
        try:
            return super().step(step, *arguments)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("settings", [{}, {"ema": 0.9, "accumulate": 2}, {"optimiser": "muon"}])
def test_the_host_never_waits_for_the_gpu_within_a_step(data, tmp_path, monkeypatch, settings):
    monkeypatch.setattr(loop, "Learner", Strict)
    task = fourm_run.make_task(data)
    monkeypatch.setattr(task, "export", lambda *arguments: None)
    Trainer(task, fourm_run.config(device=DEVICE.type, steps=5, **settings), tmp_path, seed=3).run()


def test_soft_targets_give_the_losses_and_gradients_of_the_cpu():
    soft, found = alike(torch.randn(20, 3, generator=torch.Generator().manual_seed(0)), 4.0), []
    y, ids = torch.linspace(-2, 2, 48).view(1, 8, 6), torch.tensor([3, 19, 0, 3, 7, 6, 0, 2])
    for device in ("cpu", DEVICE):
        heads = heads_of({"a": 20, "b": 7}).to(device)
        on_device = {"a": (soft[0].to(device), soft[1].to(device))}
        sums = heads(y.to(device), torch.arange(8, device=device), ids.to(device), {"a": 5, "b": 3}, soft=on_device)
        (sums["a"][0] * 2 + sums["b"][0]).backward()
        found.append((sums["a"][0].detach().cpu(), heads.weight.grad.cpu()))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_a_window_of_steps_is_traced_with_the_kernels_of_the_gpu(data, tmp_path):
    train(data, tmp_path, device=DEVICE.type, steps=8, profile=[4, 6])
    (trace,) = (tmp_path / "profile").glob("*.json*")
    opened = gzip.open if trace.suffix == ".gz" else open
    with opened(trace, "rt") as file:
        assert any(event.get("cat") == "kernel" for event in json.load(file)["traceEvents"])


def test_a_run_begun_on_the_gpu_goes_on_on_the_cpu(data, on_cpu, tmp_path):
    settings = {"schedule": "constant", "precision": "fp32"}
    whole, _ = train(data, tmp_path / "whole", device="cpu", **settings)
    train(data, tmp_path / "parts", device=DEVICE.type, steps=10, **settings)
    parts, _ = train(data, tmp_path / "parts", device="cpu", **settings)
    assert parts == pytest.approx(whole, abs=1e-3)


def map_codec():
    return test_vqvae.random_tokenizer(test_vqvae.map_spec(test_vqvae.features()))


def vector_codec():
    return test_mlp.made()


@pytest.mark.parametrize("make", [map_codec, test_divae.make, vector_codec])
def test_every_codec_gives_the_ids_and_values_of_the_cpu(make):
    here = make()
    there = copy.deepcopy(here).to(DEVICE)
    arrays = test_mlp.vectors(40) if make is vector_codec else ramps(40)
    ids, theirs = here.encode(arrays), there.encode(arrays)
    differing = np.mean([one != other for one, other in zip(ids, theirs, strict=True)])
    assert differing < 0.005  # where two codes are equally near
    for one, other in zip(here.decode(ids), there.decode(ids), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-2)  # cuDNN convolves in TF32


def test_a_frozen_encoder_gives_in_training_the_ids_of_inference():
    tokenizer = test_divae.make().to(DEVICE)
    maps, seen = ramps(21), []
    expected, lookup = np.stack(tokenizer.encode(maps)), tokenizer.network.quantiser.lookup
    tokenizer.network.frozen = True
    tokenizer.network.quantiser.lookup = lambda ids: seen.append(ids) or lookup(ids)
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        tokenizer.network.train()(tokenizer.tensor(maps).to(DEVICE))
    np.testing.assert_array_equal(seen[0].cpu().numpy(), expected)


@pytest.mark.parametrize(
    "stage",
    [
        Stage(target="height", scheme="parallel", steps=4, temperature=0.0),
        Stage(target="height", scheme="random_order", steps=4, temperature=0.0, guidance=2.0),
        Stage(target="words", scheme="autoregressive", temperature=0.0),
        Stage(target="words", scheme="autoregressive", temperature=0.0, guidance=2.0),
        Stage(target="height", scheme="parallel", steps=4, temperature=1.0, top_p=0.9),
        Stage(target="words", scheme="autoregressive", temperature=1.0),
    ],
)
def test_a_seed_gives_the_tokens_of_the_cpu(stage):
    net, vocabulary = network(MODALITIES)
    samplers = [
        Sampler(copy.deepcopy(net).to(device), vocabulary, sequences=IDS, inputs=set(MODALITIES))
        for device in ("cpu", DEVICE)
    ]
    here, there = (sampler.run([sample(0), sample(1)], [stage], [5, 6]) for sampler in samplers)
    for one, other in zip(here, there, strict=True):
        np.testing.assert_array_equal(one[stage.target].ids, other[stage.target].ids)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("stage", test_graphs.STAGES, ids=lambda stage: f"{stage.target}-{stage.scheme}")
def test_cuda_graphs_change_no_token(stage, dtype):
    launched, recorded = (test_graphs.sampler() for _ in range(2))
    for sampler in (launched, recorded):
        sampler.network.to(DEVICE, dtype)
    launched.graphs.enabled = False
    for _ in range(2):
        assert test_graphs.tokens(recorded, stage) == test_graphs.tokens(launched, stage)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("stage", test_graphs.STAGES, ids=lambda stage: f"{stage.target}-{stage.scheme}")
def test_what_lies_in_the_memory_changes_no_token(stage, dtype):
    sampler = test_graphs.sampler()
    sampler.network.to(DEVICE, dtype)
    expected = test_graphs.tokens(sampler, stage)
    for value in (torch.nan, 1e4, -1e4):
        sampler.graphs.clear()
        freed = [torch.full((size,), value, device=DEVICE) for size in (1 << 10, 1 << 16, 1 << 20) for _ in range(100)]
        del freed
        assert test_graphs.tokens(sampler, stage) == expected


@pytest.mark.parametrize("target", ["height", "words"])
def test_cuda_graphs_follow_the_weights(target):
    scheme = "autoregressive" if target == "words" else "parallel"
    stage, sampler = Stage(target=target, scheme=scheme, temperature=1.0), test_graphs.sampler()
    sampler.network.to(DEVICE)
    before, head = test_graphs.tokens(sampler, stage), sampler.network.heads.weight
    head.data.mul_(-1)  # in place
    changed = test_graphs.tokens(sampler, stage)
    head.data = -head.data  # elsewhere
    assert before != changed
    assert test_graphs.tokens(sampler, stage) == before


def test_recordings_give_their_memory_back_with_the_model():
    before = []
    for _ in range(3):  # what libraries keep for matrix products is there after the first
        gc.collect()
        before.append(torch.cuda.memory_allocated())
        sampler = test_graphs.sampler()
        sampler.network.to(DEVICE)
        for stage in test_graphs.STAGES:
            test_graphs.tokens(sampler, stage)
        assert torch.cuda.memory_allocated() > before[-1]
        del sampler
    assert before[2] <= before[1]


@pytest.mark.parametrize("stage", [test_graphs.STAGES[0], test_graphs.STAGES[3]])
def test_the_host_waits_for_the_gpu_once_a_stage_not_once_a_step(stage):
    sampler, waits = test_graphs.sampler(), []
    sampler.network.to(DEVICE)
    test_graphs.tokens(sampler, stage)
    for steps in (3, 9):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                for _ in range(3):
                    changed = stage.model_copy(update={"steps": steps})
                    caught.clear()
                    sampler.run(test_graphs.batches()[0][:1], [changed], [5])
            finally:
                torch.cuda.set_sync_debug_mode("default")
        waits.append(Counter(f"{each.filename}:{each.lineno}" for each in caught))
    assert waits[0] == waits[1]


def test_features_are_those_of_the_cpu(model):
    samples = [{"colour": picture(1), "words": "abc"}, {"height": heights(2)}, {}]
    here, there = Encoder(model), Encoder(copy.deepcopy(model))
    there.to(DEVICE)
    torch.testing.assert_close(there(samples).cpu(), here(samples), atol=1e-4, rtol=1e-4)


def test_a_model_in_bf16_generates_compiled_and_not(model):
    network = model.network.to(DEVICE, torch.bfloat16)
    plain = model.generate({"colour": picture(1)}, targets=["height", "words"], seed=0)
    network.compile_blocks()
    compiled = model.generate({"colour": picture(1)}, targets=["height", "words"], seed=0)
    assert np.isfinite(plain["height"].value).all()
    assert plain["height"].value.shape == heights().shape
    assert np.mean(plain["height"].tokens == compiled["height"].tokens) > 0.5  # rounded otherwise


def test_a_batch_beyond_the_memory_is_one_line_that_names_the_setting(data, tmp_path):
    code = (
        "import sys, torch; from fourm_engine.cli import app, main; sys.argv = ['fourm', 'train', 'x.yaml']\n"
        "app.app = lambda: torch.empty(1 << 45, device='cuda')\nmain()"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert "out of memory" in ended.stderr
    assert "train.accumulate" in ended.stderr


@pytest.mark.parametrize(("queries", "keys"), [(1, 196), (196, 196), (1, 64), (64, 192), (128, 128)])
def test_attention_sees_nothing_beyond_its_keys(queries, keys):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, n, 64, device=DEVICE, dtype=torch.bfloat16) for n in (queries, keys, keys))
    mask = (
        torch.arange(keys, device=DEVICE)[None, None, None]
        < torch.tensor([keys, keys - 30], device=DEVICE)[:, None, None, None]
    )
    expected = attend(q.float(), k.float(), v.float(), mask, None)
    for value in (torch.nan, 1e4):
        beyond = torch.full((2, 3, 512, 64), value, device=DEVICE, dtype=torch.bfloat16)
        inside = [beyond.clone()[:, :, :keys].copy_(x) for x in (k, v)]
        with torch.inference_mode():
            out = attend(q, *inside, mask, None)
        torch.testing.assert_close(out.float(), expected, atol=0.02, rtol=0.02)


@pytest.mark.parametrize(("queries", "keys"), [(64, 64), (1, 128), (128, 128)])
def test_gradients_of_attention_are_finite_where_scores_are_far_below_zero(queries, keys):
    """As those of cuDNN are not: pytorch#196678, cudnn-frontend#1072."""
    torch.manual_seed(0)
    q, k, v = (0.1 * torch.randn(1, 1, n, 64, device=DEVICE, dtype=torch.bfloat16) for n in (queries, keys, keys))
    q[..., 0], k[..., 0] = 1.0, -120 * 8.0
    for x in (q, k, v):
        x.requires_grad_()
    attend(q, k, v, torch.ones(1, 1, 1, keys, dtype=torch.bool, device=DEVICE), None).sum().backward()
    assert all(x.grad.isfinite().all() for x in (q, k, v))

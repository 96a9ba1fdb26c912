"""Muon: the same update as torch's, matrix by matrix, with AdamW for the rest."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from fourm_engine.train.loop import Trainer
from fourm_engine.train.muon import Muon, newton_schulz
from fourm_engine.train.optimiser import parameter_groups
from tests.running import equal, losses
from tests.train.blocks_task import BlocksTask
from tests.train.toy_task import ToyTask, config, train


def run(folder, task=None, **changes):
    settings = {"optimiser": "muon", "lr": 3e-3, "steps": 12, **changes}
    return train(folder, task or BlocksTask(), **settings)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 20), (2, 20, 8)])
def test_singular_values_become_about_one(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(newton_schulz(x))
    assert values.min() > 0.5
    assert values.max() < 1.3
    torch.testing.assert_close(newton_schulz(x)[0], newton_schulz(x[:1])[0])  # each by itself


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch.optim.Muon came with torch 2.9")
@pytest.mark.parametrize("adjust", ["original", "match_rms_adamw"])
@pytest.mark.parametrize("nesterov", [True, False])
def test_a_matrix_learns_as_with_torch_optim_muon(adjust, nesterov):
    """Which computes in bfloat16; up to that."""
    start = torch.randn(24, 16, generator=torch.Generator().manual_seed(0))
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    settings = {"lr": 0.1, "momentum": 0.9, "nesterov": nesterov, "adjust_lr_fn": adjust}
    optimisers = (
        Muon([{"params": [ours], "weight_decay": 0.1, "matrices": 1}], **settings),
        torch.optim.Muon([theirs], weight_decay=0.1, **settings),
    )
    for step in range(4):
        gradient = torch.randn(24, 16, generator=torch.Generator().manual_seed(step))
        for parameter, optimiser in zip((ours, theirs), optimisers, strict=True):
            parameter.grad = gradient.clone()
            optimiser.step()
    moved = (theirs - start).norm()
    assert (ours - theirs).norm() < 0.02 * moved


def test_matrices_of_blocks_are_muons_and_everything_else_adamws(tmp_path):
    task = BlocksTask()
    model = task.model()
    names = {id(p): name for name, p in model.named_parameters()}
    groups = parameter_groups(model, task, config())
    hidden = {names[id(p)]: group["matrices"] for group in groups for p in group["params"] if group["matrices"]}
    of_block = {"attn.qkv.weight": 3, "attn.proj.weight": 1, "mlp.fc1.weight": 1, "mlp.fc2.weight": 1}
    assert hidden == {f"blocks.{i}.{name}": n for i in (0, 1) for name, n in of_block.items()}
    assert sum(len(group["params"]) for group in groups) == len(names)
    run(tmp_path, steps=4)
    state = load_file(next(tmp_path.glob("checkpoints/*/part-*")))
    kept = {key.removeprefix("optimiser/").rpartition("/")[::2] for key in state if key.startswith("optimiser/")}
    assert {name for name, key in kept if key == "momentum_buffer"} == set(hidden)
    assert {name for name, key in kept if key == "exp_avg"} == set(names.values()) - set(hidden)


def test_queries_keys_and_values_are_orthogonalised_by_themselves():
    weight = nn.Parameter(torch.zeros(24, 8))
    weight.grad = torch.randn(24, 8, generator=torch.Generator().manual_seed(0))
    weight.grad[:8] *= 1e-3  # beside the others small queries would hardly learn
    Muon([{"params": [weight], "weight_decay": 0.0, "matrices": 3}], lr=1.0, adjust_lr_fn="original").step()
    for part in weight.detach().split(8):
        assert torch.linalg.svdvals(part).min() > 0.5


def test_a_run_with_muon_learns_and_resumes_bit_for_bit(tmp_path):
    whole = run(tmp_path / "whole")
    assert losses(tmp_path / "whole")[-1] < losses(tmp_path / "whole")[0]
    with pytest.raises(RuntimeError, match="stop"):
        run(tmp_path / "cut", BlocksTask(stop_at=7), checkpoint_every=5)
    assert equal(whole, run(tmp_path / "cut"))
    assert losses(tmp_path / "whole") == losses(tmp_path / "cut")


def test_the_rate_of_matrices_may_be_another(tmp_path):
    plain, faster = run(tmp_path / "a"), run(tmp_path / "b", optimiser_options={"muon_lr": 6e-3})
    assert not equal(plain, faster)
    assert equal(faster, run(tmp_path / "c", optimiser_options={"muon_lr": 6e-3}))


def test_a_skipped_step_leaves_no_trace_in_muon(tmp_path):
    assert equal(run(tmp_path / "a", BlocksTask(poison=[11])), run(tmp_path / "b", BlocksTask(poison=[11]), ema=0.5,
                 export="weights"))  # fmt: skip
    first = run(tmp_path / "c", BlocksTask(poison=range(8)), steps=8)
    assert all(torch.equal(first[name], tensor) for name, tensor in _initial().items())


def _initial():
    torch.manual_seed(1)
    return BlocksTask().model().state_dict()


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        (ToyTask, {}, "train.optimiser=muon: muon is for matrices in blocks.*choose adamw"),
        (BlocksTask, {"momentum": 1.5}, r"momentum=1\.5 must be in \[0, 1\)"),
        (BlocksTask, {"ns_steps": 0}, "ns_steps=0 must be 1 to 99"),
        (BlocksTask, {"muon_lr": -1}, "muon_lr=-1 must be above 0"),
        (BlocksTask, {"adjust_lr_fn": "none"}, "adjust_lr_fn='none' must be 'match_rms_adamw' or 'original'"),
        (BlocksTask, {"nesterof": True}, "nesterof"),
    ],
)
def test_what_muon_cannot_do_ends_the_run_before_work(tmp_path, task, options, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "run", task(), optimiser_options=options)
    assert not (tmp_path / "run").exists()


def test_layers_below_learn_slower_by_the_layer_decay(tmp_path):
    task = BlocksTask()
    model = task.model()
    names = {id(p): name for name, p in model.named_parameters()}
    scales = {names[id(p)]: group["lr_scale"] for group in parameter_groups(model, task, config(layer_decay=0.5))
              for p in group["params"]}  # fmt: skip
    assert scales["head.weight"] == 1
    assert scales["blocks.1.mlp.fc1.weight"] == 0.5
    assert scales["blocks.0.norm1.weight"] == 0.25
    assert scales["embed.weight"] == 0.125
    # The first step of AdamW is as large as the rate, whatever the gradient.
    after = run(tmp_path, optimiser="adamw", steps=1, warmup=0, lr=1e-3, weight_decay=0.0, layer_decay=0.5, clip=None)
    moved = {name: float((after[name] - before).abs().max()) for name, before in _initial().items()}
    assert moved["head.weight"] == pytest.approx(1e-3, rel=1e-2)
    assert moved["blocks.0.mlp.fc1.weight"] == pytest.approx(0.25e-3, rel=1e-2)
    assert moved["embed.weight"] == pytest.approx(0.125e-3, rel=1e-2)


def test_a_layer_decay_without_layers_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"train\.layer_decay: toy has no order of layers"):
        Trainer(ToyTask(), config(layer_decay=0.5), tmp_path / "run").run()


def test_averages_are_exported_beside_the_weights_or_in_their_place(tmp_path):
    weights = run(tmp_path / "weights", ema=0.9, export="weights")
    averages = run(tmp_path / "ema", ema=0.9)
    assert not equal(weights, averages)
    assert equal(averages, run(tmp_path / "named", ema=0.9, export="ema"))
    assert equal(weights, run(tmp_path / "both", ema=0.9, export="both"))
    assert equal(averages, load_file(tmp_path / "both/averages.safetensors"))
    scores = {name: json.loads((tmp_path / name / "finished.json").read_text())["scores"]
              for name in ("weights", "ema", "both")}  # fmt: skip
    assert scores["both"] == {"error": scores["weights"]["error"], "error ema": scores["ema"]["error"]}
    # A finished run that is to export more goes on just for that.
    assert equal(weights, run(tmp_path / "ema", ema=0.9, export="both"))
    assert equal(averages, load_file(tmp_path / "ema/averages.safetensors"))


def test_both_states_are_refused_where_one_is_exported(tmp_path):
    with pytest.raises(ValueError, match="toy: exports one state only"):
        Trainer(ToyTask(), config(ema=0.9, export="both"), tmp_path / "run").run()

"""The host never waits for a GPU within a step; what it logs it reads some steps later."""

import json

import pytest
import torch

from fourm_engine import device
from fourm_engine.nn import attention
from fourm_engine.tokenizers.quantisers.fsq import FiniteScalarQuantiser
from fourm_engine.tokenizers.quantisers.lfq import LookupFreeQuantiser
from fourm_engine.tokenizers.quantisers.product import ProductQuantiser
from fourm_engine.tokenizers.quantisers.vq import VectorQuantiser
from fourm_engine.train import loop
from fourm_engine.train.learner import Learner
from fourm_engine.train.loop import Trainer
from tests.fakes import fake_modalities, sample_names, write_data
from tests.pretrain import fourm_run
from tests.train import blocks_task
from tests.train.toy_task import ToyTask, config
from tests.train.waiting import Waits, nothing_waits


class Watched(Learner):
    def step(self, step, *arguments):
        if step < 1:  # which buffers change is seen once
            return super().step(step, *arguments)
        with nothing_waits():
            return super().step(step, *arguments)


@pytest.fixture
def watched(monkeypatch):
    monkeypatch.setattr(loop, "Learner", Watched)
    monkeypatch.setattr(device, "HOST_TYPES", ())  # as a GPU


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.sum().item(),
        lambda x: x.cpu(),
        lambda x: bool(x[0] > 0),
        lambda x: x.tolist(),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: float(x[0]),
        lambda x: torch.equal(x, x),
    ],
)
def test_reading_what_a_device_computes_is_noticed(read):
    with pytest.raises(Waits), nothing_waits():
        read(torch.ones(3))


def test_a_step_of_the_model_waits_for_nothing(tmp_path, watched, monkeypatch):
    names = sample_names(8)
    write_data(tmp_path / "train", fake_modalities(), {"a": names, "b": names[:4], "words": names})
    task = fourm_run.make_task(tmp_path, val=None)
    monkeypatch.setattr(task, "export", lambda *arguments: None)
    monkeypatch.setattr(attention, "ZERO_ON", ())  # masks as on a GPU
    settings = fourm_run.config(steps=3, ema=0.9, clip=0.01, accumulate=2, activation_checkpointing="selective")
    Trainer(task, settings, tmp_path / "run", seed=1).run()


def test_a_step_with_muon_that_is_skipped_waits_for_nothing(tmp_path, watched):
    trainer = Trainer(blocks_task.BlocksTask(poison=[2]), config(optimiser="muon", lr=1e-3, steps=4), tmp_path, seed=1)
    trainer.run()
    assert trainer.progress.skipped == 1


@pytest.mark.parametrize("restart", ["batch", "split"])
def test_a_codebook_that_learns_and_restarts_codes_waits_for_nothing(restart):
    options = {"restart": restart, "restart_below": 0.5, "warmup": 0.0, "normalise": False}
    made = [VectorQuantiser(16, 4, seed=seed, **options) for seed in (0, 1)]
    quantiser = ProductQuantiser(made).train()
    quantiser(torch.randn(64, 8))
    quantiser.after_step(0, 9)
    quantiser(torch.randn(64, 8))  # asks once whether the codebook has started
    quantiser.after_step(1, 9)
    before = made[0].codes.clone()
    with nothing_waits():
        quantiser(torch.randn(64, 8))
        quantiser.after_step(2, 9)
        quantiser.progress()
    assert not torch.equal(made[0].codes, before)


@pytest.mark.parametrize("quantiser", [FiniteScalarQuantiser((3, 4)), LookupFreeQuantiser(4)])
def test_quantisers_without_a_codebook_wait_for_nothing(quantiser):
    quantiser.train()
    with nothing_waits():
        quantiser(torch.randn(8, quantiser.dim))
        quantiser.after_step(0, 9)


def test_a_host_that_is_steps_ahead_reports_all_steps_in_order(tmp_path, monkeypatch):
    """As on a GPU: lines come some steps later, before the evaluation of their step and complete at the end."""
    ahead = []
    settle = Trainer._settle

    def noted(self, pending, *arguments):
        ahead.append(self.progress.step - pending.step - 1)
        settle(self, pending, *arguments)

    build = Trainer._build
    monkeypatch.setattr(Trainer, "_build", lambda self, device: [build(self, device), setattr(self, "ahead", 2)])
    monkeypatch.setattr(Trainer, "_settle", noted)
    settings = config(steps=8, eval_every=5)
    Trainer(ToyTask(poison=[2]), settings, tmp_path / "ahead", seed=1).run()
    assert ahead == [2, 2, 2, 1, 0, 2, 1, 0]
    monkeypatch.undo()
    Trainer(ToyTask(poison=[2]), settings, tmp_path / "plain", seed=1).run()
    rows = [
        [json.loads(line) for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()]
        for run in ("ahead", "plain")
    ]
    kept = [[(row["step"], row.get("loss"), row.get("skipped"), row.get("eval")) for row in run] for run in rows]
    assert kept[0] == kept[1]

"""A step that is skipped leaves no trace, and neither do the initial weights in an average."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from fourm_engine.train import learner, loop
from fourm_engine.train.averages import Averages
from fourm_engine.train.learner import Learner
from fourm_engine.train.loop import Trainer
from tests.running import rows
from tests.train.toy_task import FEATURES, Network, ToyTask, config


class Normed(Network):
    """With a batch norm, whose statistics every forward pass changes, and two names for one weight."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(FEATURES)
        self.unused2 = nn.Linear(3, 3)
        self.unused2.weight = self.unused.weight

    def forward(self, x):
        return super().forward(self.norm(x))


class NormedTask(ToyTask):
    def model(self):
        return Normed()

    def loss(self, model, batch, step):
        return super().loss(model, batch * float("nan") if step in self.poison else batch, step)


class Watched(Learner):
    """Compares everything that learns before and after each skipped step."""

    def step(self, step, *arguments, **options):
        before = {name: tensor.clone() for name, tensor in self.tensors().items()}
        outcome = super().step(step, *arguments, **options)
        after = self.tensors()
        changed = [n for n in after if not torch.equal(before.get(n, torch.zeros_like(after[n])), after[n])]
        assert (not changed) == (step in self.task.poison), changed
        return outcome


def test_a_skipped_step_leaves_weights_optimiser_averages_and_buffers_as_they_were(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "Learner", Watched)
    task = NormedTask(poison=[0, 3, 4])
    trainer = Trainer(task, config(steps=8, accumulate=2, ema=0.9), tmp_path, seed=1)
    trainer.run()
    assert (trainer.progress.skipped, trainer.learner.averages.number) == (3, 5)
    assert all(t.isfinite().all() for t in load_file(tmp_path / "model.safetensors").values())


def test_a_line_of_progress_shows_rate_and_norm_of_the_last_step_that_was_taken(tmp_path):
    Trainer(ToyTask(poison=[3]), config(steps=5, log_every=4), tmp_path, seed=1).run()
    lines = rows(tmp_path)
    row = next(row for row in lines if "loss" in row)
    assert (row["step"], row["skipped"]) == (4, 1)
    assert row["gradient_norm"] > 0
    assert row["lr"] == pytest.approx(0.05 * 3 / 5)


def test_a_short_average_does_not_remember_the_initial_weights(tmp_path, monkeypatch):
    trainer = Trainer(NormedTask(), config(steps=6, ema=0.9999), tmp_path, seed=1)
    trajectory = []
    inner = Averages.update

    class Spy(Averages):
        def update(self, taken):
            trajectory.append({name: tensor.clone() for name, tensor in self._learning().items()})
            inner(self, taken)

    monkeypatch.setattr(learner, "Averages", Spy)
    trainer.run()
    expected = trajectory[0]
    for n, current in enumerate(trajectory[1:], start=1):
        decay = (1 + n) / (10 + n)
        expected = {name: decay * expected[name] + (1 - decay) * current[name] for name in expected}
    exported = load_file(tmp_path / "model.safetensors")
    for name in ("near.weight", "norm.running_mean", "norm.running_var"):
        torch.testing.assert_close(exported[name], expected[name])
        assert not torch.equal(exported[name], trajectory[-1][name])
    assert exported["norm.num_batches_tracked"] == 6  # integers are the model's


def test_a_weight_with_two_names_is_averaged_under_both():
    model = Normed()
    averages = Averages(model, NormedTask(), 0.9)
    averages.update(torch.tensor(True))
    with torch.no_grad():
        model.unused.weight += 1
    averages.update(torch.tensor(True))
    state = {name: tensor.clone() for name, tensor in averages.state().items()}
    assert torch.equal(state["unused.weight"], state["unused2.weight"])
    assert not torch.equal(state["unused.weight"], model.unused.weight)
    with averages.in_model():
        assert torch.equal(model.unused.weight, state["unused.weight"])

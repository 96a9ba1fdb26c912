"""What is kept of a step that is not finite, and what computing it again says."""

import json
import os
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from fourm_engine.data.order import Share
from fourm_engine.train.loop import Trainer
from fourm_engine.train.nonfinite import KEPT, NotFinite, _digest, read_step
from tests.running import rows
from tests.train import toy_task
from tests.train.toy_task import FEATURES, Network, ToyTask, config


class Logarithm(nn.Module):
    def forward(self, x):
        return x.log() * 0 + x  # of a negative number: nan


class Root(nn.Module):
    def forward(self, x):
        return (x * 0).sqrt() + x  # finite, but its gradient is not


class Faulty(Network):
    def __init__(self, fault):
        super().__init__()
        self.fault = fault

    def forward(self, x):
        return super().forward(self.fault(x))


class FaultyTask(ToyTask):
    """In step 5 a module makes no finite numbers of some samples."""

    def __init__(self, fault):
        super().__init__()
        self.fault = fault

    def model(self):
        return Faulty(self.fault)

    def loss(self, model, batch, step):
        if step != 4:
            batch = batch.clone()
            batch[:, :FEATURES] = batch[:, :FEATURES].abs() + 0.1
        return super().loss(model, batch, step)


@pytest.fixture(autouse=True)
def dropout(monkeypatch):
    monkeypatch.setattr(toy_task, "DROPOUT", False)


def trainer(run, task, **changes):
    return Trainer(task, config(**{"steps": 8, "checkpoint_every": 8, **changes}), run, seed=1)


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory):
    """A run whose fifth step was not finite."""
    run = tmp_path_factory.mktemp("poisoned")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toy_task, "DROPOUT", False)
        trainer(run, ToyTask(poison=[4])).run()
    return run


@pytest.fixture
def kept(poisoned, tmp_path):
    """The step that it has kept, in a copy of the run."""
    (path,) = (shutil.copytree(poisoned, tmp_path / "run") / "not-finite").iterdir()
    return path


def test_a_skipped_step_is_named_with_its_samples_and_kept_with_the_weights_of_then(tmp_path, capsys):
    trainer(tmp_path, ToyTask(poison=[4]), accumulate=2).run()
    (row,) = [row for row in rows(tmp_path) if "not_finite" in row]
    assert row["step"] == 5
    assert row["not_finite"]["samples"] == [f"sample {n}" for n in range(64, 80)]
    (path,) = (tmp_path / "not-finite").iterdir()
    assert row["not_finite"]["files"] == [str(path)]
    assert f"its 16 samples are named in metrics.jsonl; add --replay {path} to the command" in capsys.readouterr().err
    assert (tmp_path / "checkpoints/step-00000005").is_dir()
    kept = read_step(path, ToyTask())
    batches = ToyTask().batches(4, Share(0, 1, 16, 2))
    assert all(torch.equal(batch, next(batches)) for batch in kept.batches)


def test_a_replay_names_the_module_and_the_samples_that_are_not_finite_first(tmp_path):
    trainer(tmp_path, FaultyTask(Logarithm())).run()
    (path,) = (tmp_path / "not-finite").iterdir()
    said: list[str] = []
    trainer(tmp_path, FaultyTask(Logarithm())).replay(path, said.append)
    batch = read_step(path, ToyTask()).batches[0]
    bad = [f"sample {64 + row}" for row in (batch[:, :FEATURES] < 0).any(1).nonzero()[:, 0].tolist()]
    assert said[0] == "step 5 of rank 0, with the weights after step 5"
    assert said[1].startswith(
        "micro-batch 1 of 1, forward: fault (Logarithm) gave the first numbers that are not finite"
    )
    assert f"samples: {', '.join(bad)}" in said
    assert [p.name for p in (tmp_path / "not-finite").iterdir()] == [path.name]  # nothing was trained


def test_a_replay_finds_a_gradient_that_is_not_finite(tmp_path):
    task = FaultyGradient()
    trainer(tmp_path, task).run()
    (path,) = (tmp_path / "not-finite").iterdir()
    said: list[str] = []
    trainer(tmp_path, FaultyGradient()).replay(path, said.append)
    assert "backward: body.3 (Root) gave the first gradient that is not finite (Function" in said[1]


class FaultyGradient(ToyTask):
    """In step 5 a square root of 0 is multiplied by 0."""

    def model(self):
        network = Network()
        network.body.append(Root())
        return network

    def loss(self, model, batch, step):
        model.body[3].forward = Root().forward if step == 4 else nn.Identity().forward
        return super().loss(model, batch, step)


def test_a_replay_of_a_step_that_is_finite_says_so(kept):
    said: list[str] = []
    trainer(kept.parents[1], ToyTask()).replay(kept, said.append)
    assert said[1].startswith("with these weights everything is finite: loss ")


def test_batches_of_a_few_steps_are_kept_and_no_more(tmp_path):
    trainer(tmp_path, ToyTask(poison=range(1, 16, 2)), steps=20).run()
    assert len(list((tmp_path / "not-finite").iterdir())) == KEPT
    assert len([row for row in rows(tmp_path) if "not_finite" in row]) == 8


def test_what_no_run_has_kept_is_refused_by_name(tmp_path, kept, monkeypatch):
    with pytest.raises(ValueError, match=r"nothing\.safetensors: no such file; runs keep such steps in not-finite/"):
        read_step(tmp_path / "nothing.safetensors", ToyTask())
    other = tmp_path / "other.safetensors"
    save_file(load_file(kept), other)
    with pytest.raises(ValueError, match=r"other\.safetensors: not a step that a run of this task has kept"):
        read_step(other, ToyTask())

    class Other(ToyTask):
        def identity(self):
            return super().identity() | {"vocabulary.rows": 7}

    with pytest.raises(ValueError, match="of a run with another model, vocabulary or data"):
        read_step(kept, Other())
    with monkeypatch.context() as patch:
        patch.setattr("fourm_engine.train.nonfinite.MAX_BYTES", 100)
        with pytest.raises(ValueError, match="bytes, more than the batches of a step"):
            read_step(kept, ToyTask())
    other.write_bytes(kept.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"other\.safetensors: not a step"):
        read_step(other, ToyTask())


@pytest.mark.parametrize(
    "change", [{"step": -1}, {"step": 1e400}, {"step": "5"}, {"rank": -1}, {"samples": []}, {"counts": {"error": -1}}]
)
def test_a_kept_step_with_facts_that_cannot_be_is_refused_by_name(tmp_path, kept, change):
    with safe_open(kept, framework="pt") as file:
        facts = json.loads(file.metadata()["fourm.step"])
    other = tmp_path / "other.safetensors"
    rewrite(other, facts | change, load_file(kept))
    with pytest.raises(ValueError, match=r"other\.safetensors: not a step") as caught:
        read_step(other, ToyTask())
    assert "edited" not in str(caught.value)


def rewrite(path, facts, tensors):
    """Of a kept step, as somebody does who knows of its digest."""
    facts = {key: value for key, value in facts.items() if key != "digest"}
    facts["digest"] = _digest(facts, tensors)
    save_file(tensors, path, metadata={"fourm.step": json.dumps(facts)})


def test_a_kept_step_that_was_edited_is_refused_though_it_is_well_formed(kept):
    whole = kept.read_bytes()
    with safe_open(kept, framework="pt") as file:
        metadata = file.metadata()
    for edited in (whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:], whole.replace(b"sample 64", b"sample 63")):
        assert edited != whole
        kept.write_bytes(edited)
        with pytest.raises(ValueError, match="not the content that was written: damaged or edited"):
            read_step(kept, ToyTask())
    kept.write_bytes(whole)
    save_file(load_file(kept), kept, metadata=metadata)  # written again, the same
    assert read_step(kept, ToyTask()).step == 4


def test_a_pipe_or_a_folder_in_place_of_a_kept_step_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(ValueError, match="not a file"):
            read_step(path, ToyTask())


def test_a_kept_step_whose_header_nests_too_deep_is_refused_by_name(tmp_path):
    save_file({"0/batch": torch.zeros(1)}, tmp_path / "deep.safetensors", metadata={"fourm.step": "[" * 100_000})
    with pytest.raises(ValueError, match=r"deep\.safetensors: not a step"):
        read_step(tmp_path / "deep.safetensors", ToyTask())


def test_a_kept_step_of_other_shapes_than_the_models_is_refused_by_name(kept):
    with safe_open(kept, framework="pt") as file:
        facts = json.loads(file.metadata()["fourm.step"])
    rewrite(kept, facts, {name: tensor[:, :1].clone() for name, tensor in load_file(kept).items()})
    with pytest.raises(ValueError, match="does not fit this run's model"):
        trainer(kept.parents[1], ToyTask()).replay(kept, print)


def test_a_second_ctrl_c_while_a_step_is_kept_ends_the_run(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(NotFinite, "_keep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Trainer(ToyTask(poison=[2]), config(steps=6), tmp_path, seed=1).run()

import os

import pytest

from fourm_engine.train import run_record
from fourm_engine.train.loop import Trainer
from tests.train.toy_task import ToyTask, config


def test_a_finished_run_says_what_it_was_where_and_with_which_versions(tmp_path):
    Trainer(ToyTask(), config(steps=4), tmp_path, seed=1).run()
    facts = run_record.read(tmp_path)
    assert (facts["what"], facts["state"], facts["step"], facts["steps"], facts["error"]) == ("toy", "ended", 4, 4, "")
    assert facts["device"].startswith("CPU, ")
    assert facts["processes"] == 1
    assert facts["train"]["batch_size"] == 16
    assert facts["engine"]
    assert facts["torch"]
    assert facts["started"] <= facts["ended"]


def test_a_failed_run_says_why(tmp_path):
    with pytest.raises(ValueError, match="not finite"):
        Trainer(ToyTask(poison=range(1, 40)), config(steps=40), tmp_path, seed=1).run()
    facts = run_record.read(tmp_path)
    assert facts["state"] == "failed"
    assert "not finite" in facts["error"]


def test_a_run_is_recorded_as_running_while_it_learns(tmp_path):
    class Looking(ToyTask):
        def after_step(self, model, step):
            super().after_step(model, step)
            self.seen = run_record.read(tmp_path)

    task = Looking()
    Trainer(task, config(steps=4), tmp_path, seed=1).run()
    assert task.seen["state"] == "running"
    assert task.seen["pid"] == os.getpid()


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"format": 99}', "\xff"])
def test_a_record_that_is_none_says_nothing(tmp_path, content):
    (tmp_path / run_record.NAME).write_text(content)
    assert run_record.read(tmp_path) == {}


def test_a_task_without_several_modalities_refuses_pairs_and_pictures_before_training(tmp_path):
    for setting in ("pairs_every", "pictures_every"):
        with pytest.raises(ValueError, match=f"toy: {setting} is for models of several modalities; leave it out"):
            Trainer(ToyTask(), config(**{setting: 2}), tmp_path, seed=1).run()

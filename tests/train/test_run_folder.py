"""What is in the way of a run is told before it trains."""

import pytest

from fourm_engine.train.loop import Trainer
from fourm_engine.train.run_folder import FILES, FOLDERS
from tests.train.toy_task import ToyTask, config


class NeverTrained(ToyTask):
    def loss(self, model, batch, step):
        pytest.fail("a step was computed")


@pytest.mark.parametrize("name", [*FOLDERS, *FILES, ""])
def test_a_file_in_the_place_of_a_folder_or_a_folder_in_that_of_a_file_is_told_before_the_first_step(tmp_path, name):
    path = tmp_path / "run" / name
    if name in FILES:
        path.mkdir(parents=True)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=rf"{path}: a (file|folder), where .*; move it away"):
        Trainer(NeverTrained(), config(), tmp_path / "run", seed=1).run()
    assert sorted(tmp_path.rglob("*")) == before


def test_a_link_to_a_folder_elsewhere_is_a_folder(tmp_path):
    (tmp_path / "large-disk").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run/checkpoints").symlink_to(tmp_path / "large-disk")
    Trainer(ToyTask(), config(steps=4), tmp_path / "run", seed=1).run()
    assert (tmp_path / "large-disk/step-00000004").is_dir()


def test_inputs_of_pairs_that_are_none_are_refused():
    with pytest.raises(ValueError, match=r"pairs_inputs=\[\] names no input; leave it out"):
        config(pairs_inputs=[])
    assert config(pairs_inputs=[[]]).pairs_inputs == ((),)  # nothing shown

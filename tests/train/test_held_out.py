"""What a run says and keeps when its held-out measure no longer improves."""

from __future__ import annotations

import errno
import json
import os
from itertools import pairwise

import pytest
from safetensors.torch import load_file

from fourm_engine.train.best import plateau
from fourm_engine.train.loop import Trainer
from fourm_engine.train.stopping import Stopped
from tests.train.toy_task import ToyTask, config


class Overfits(ToyTask):
    """Its held-out error falls until step 6 and then rises, whatever it learns."""

    monitor = "error", False

    def evaluate(self, model, share):
        step = int(model.seen)
        return {"error": (abs(step - 6) + 1.0, 1.0)}


def run(folder, task=None, **changes):
    settings = {"steps": 20, "eval_every": 2, "checkpoint_every": 4, "warmup": 0, "keep_best": True, **changes}
    Trainer(task or Overfits(), config(**settings), folder, seed=1).run()


def said(capsys):
    """(what is said, what to do)."""
    lines = capsys.readouterr().out.splitlines()
    return [(line, more) for line, more in pairwise(lines) if "has not improved" in line]


def test_a_run_says_once_that_its_held_out_measure_no_longer_improves_and_keeps_the_best_weights(tmp_path, capsys):
    run(tmp_path / "run")
    ((line, remedy),) = said(capsys)
    assert line == ("toy: error has not improved since step 6 (1, now 7)")
    assert remedy.startswith(f"    {tmp_path / 'run/best'} keeps that step")
    note = json.loads((tmp_path / "run/best/best.json").read_text())
    assert note == {"step": 6, "measure": "error", "score": 1.0}
    kept, last = (load_file(tmp_path / part / "model.safetensors") for part in ("run/best", "run"))
    assert (int(kept["seen"]), int(last["seen"])) == (6, 20)


def test_a_resumed_run_neither_repeats_nor_forgets_what_it_said(tmp_path, capsys):
    run(tmp_path / "run")
    for end, before in ((14, 1), (10, 0)):  # after the line, and two evaluations before it
        folder = tmp_path / str(end)
        capsys.readouterr()
        with pytest.raises(Stopped):
            run(folder, Overfits(end_at=end))
        assert len(said(capsys)) == before
        run(folder)
        assert len(said(capsys)) == 1 - before
        one, other = (load_file(path / "best/model.safetensors") for path in (tmp_path / "run", folder))
        assert all((one[name] == other[name]).all() for name in one)


def test_without_kept_weights_the_line_says_how_to_keep_them(tmp_path, capsys):
    run(tmp_path / "run", keep_best=False)
    ((_, remedy),) = said(capsys)
    assert "train.keep_best" in remedy
    assert not (tmp_path / "run/best").exists()


def test_weights_that_were_not_yet_kept_at_the_best_step_are_not_said_to_be(tmp_path, capsys):
    with pytest.raises(Stopped):
        run(tmp_path / "run", Overfits(end_at=8), keep_best=False)
    run(tmp_path / "run")
    ((line, remedy),) = said(capsys)
    assert "since step 6" in line
    assert remedy.strip().startswith("train.keep_best")
    assert json.loads((tmp_path / "run/best/best.json").read_text())["step"] != 6


class FillsTheDisk(Overfits):
    """Finds no space for the weights after step 4."""

    def export(self, weights, folder, scores):
        if int(weights["seen"]) == 4 and folder.name == "best":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder / "model.safetensors"))
        super().export(weights, folder, scores)


def test_a_run_goes_on_where_there_is_no_space_for_the_best_weights(tmp_path, capsys, caplog):
    run(tmp_path / "run", FillsTheDisk())
    (line,) = [line for line in caplog.messages if "not kept" in line]
    path = tmp_path / "run/best/model.safetensors"
    assert line == f"weights after step 4, the best so far, not kept: {path}: No space left on device; free space"
    assert json.loads((tmp_path / "run/best/best.json").read_text())["step"] == 6
    run(tmp_path / "last", FillsTheDisk(), steps=4)
    assert json.loads((tmp_path / "last/best/best.json").read_text())["step"] == 2
    assert int(load_file(tmp_path / "last/best/model.safetensors")["seen"]) == 2


@pytest.mark.parametrize(
    ("scores", "more_is_better", "best"),
    [
        ([3, 2, 1], False, None),
        ([3, 1, 2, 2], False, None),  # two evaluations say little
        ([3, 1, 2, 2, 2], False, (1, 1)),
        ([3, 1, 1.04, 1.04, 1.04], False, None),  # hardly worse
        ([3, 1, 2, 2, 0.9], False, None),
        ([0.2, 0.8, 0.7, 0.7, 0.7], True, (1, 0.8)),
        ([1, 1, 1, 1, 1], True, None),
        ([-1, -3, -2, -2, -2], False, (1, -3)),
    ],
)
def test_a_measure_no_longer_improves_after_three_clearly_worse_evaluations(scores, more_is_better, best):
    assert plateau(list(enumerate(scores)), more_is_better=more_is_better) == best

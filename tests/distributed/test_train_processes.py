"""Two processes over gloo, started as torchrun starts them."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.distributed import launching
from tests.running import losses


def launch(run: Path, world: int, *, options: dict | None = None, fail: bool = False, **changes) -> str:
    """Train the toy; the first process's standard error."""
    arguments = str(run), json.dumps(changes), json.dumps(options or {})
    return launching.launch("train/toy_task.py", *arguments, world=world, fail=fail)


def assert_close(a: Path, b: Path) -> None:
    first, second = load_file(a / "model.safetensors"), load_file(b / "model.safetensors")
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def single(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("single")
    launch(run, 1, ema=0.9, eval_every=6)
    return run


@pytest.mark.parametrize("parallel", ["replicate", "shard"])
def test_two_processes_follow_the_losses_of_one(tmp_path, single, parallel):
    launch(tmp_path, 2, parallel=parallel, accumulate=2, ema=0.9, eval_every=6)
    assert len(losses(tmp_path)) == 20
    assert losses(tmp_path) == pytest.approx(losses(single), abs=1e-4)
    assert_close(tmp_path, single)
    scores = [json.loads((run / "finished.json").read_text())["scores"]["error"] for run in (tmp_path, single)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)


def test_a_sharded_checkpoint_is_continued_by_one_process_and_back(tmp_path, single):
    """Steps 0-8 on two processes, sharded; 8-14 on one; 14-20 on two, replicated: or from a checkpoint earlier, where
    the newest was still being written when the run was killed."""
    options = {"kill_at": 9}
    launch(tmp_path, 2, parallel="shard", ema=0.9, checkpoint_every=4, fail=True, options=options)
    launch(tmp_path, 1, ema=0.9, checkpoint_every=7, fail=True, options={"kill_at": 15})
    said = launch(tmp_path, 2, ema=0.9)
    assert "continuing after step" in said
    assert losses(tmp_path) == pytest.approx(losses(single), abs=1e-4)
    assert_close(tmp_path, single)


def test_processes_that_are_set_up_differently_are_told_rank_and_key(tmp_path):
    said = launch(tmp_path, 2, options={"differ": "vocabulary"}, fail=True)
    assert "rank 1 differs from rank 0 in vocabulary" in said
    assert "'0' in rank 0, '1'" in said
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_process_that_cannot_write_fails_the_checkpoint_in_all(tmp_path):
    said = launch(tmp_path, 2, parallel="shard", options={"fail_on_rank": 1}, checkpoint_every=10, fail=True)
    assert "checkpoint not saved: /data/part: No space left on device" in said
    assert list((tmp_path / "checkpoints").iterdir()) == []

"""What two processes agree on: their folder, the weights that they start from, and the end of a checkpoint that one
cannot write."""

import json

import pytest
import torch

from tests.distributed.launching import launch


def result(*arguments: str):
    return json.loads(launch("distributed/agreeing.py", *arguments, world=2).splitlines()[-1])


@pytest.mark.parametrize("parallel", ["replicate", "shard"])
def test_processes_that_draw_other_weights_start_from_those_of_the_first(parallel):
    found = result("start", parallel)
    (first, second), drawn = found["drawn"]
    assert first == second
    torch.manual_seed(17)
    assert [x for x in drawn if x in first] == drawn
    first, second = found["learnt"]
    assert first == second  # batch norms, too, and what was drawn after a step
    assert found["noise"][0] != found["noise"][1]


def test_processes_that_do_not_share_the_run_s_folder_do_not_start(tmp_path):
    """Their checkpoints would never be whole, which they would learn at the end."""
    run, options = str(tmp_path / "run-RANK"), json.dumps({"seen": 0.5})
    error = launch("train/toy_task.py", run, "{}", options, world=2, fail=True)
    assert f" writes to {tmp_path}/run-0; use a folder on a file system that all machines share" in error
    assert "rank 1 on " in error
    assert not list(tmp_path.glob("run-*/checkpoints"))


def test_whatever_befalls_a_writer_ends_or_goes_on_in_all_processes_alike(tmp_path):
    for kind, bad, each in result("save", str(tmp_path)):
        at = (kind, bad)
        for rank, (raised, said, saved, left) in enumerate(each):
            assert saved == 1, at
            assert left == ["step-00000001"], at
            if kind in ("disk", "permission"):  # reported, and tried again at the next checkpoint
                assert raised is None, at
                assert said[0].startswith("checkpoint not saved: /data/part: "), at
            elif kind in ("ctrl-c", "exit") and rank == bad:
                assert raised[0] == {"ctrl-c": "KeyboardInterrupt", "exit": "SystemExit"}[kind], at
            else:
                assert raised[0] == "CheckpointError", at
                assert raised[1].startswith(f"checkpoint not saved: {tmp_path}"), at
                assert "step-00000002.part: " in raised[1], at
                assert "\n" not in raised[1], at

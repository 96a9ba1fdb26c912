import gzip
import json

import pytest
import torch

from fourm_engine.train.loop import Trainer
from fourm_engine.train.profile import Profile
from tests.running import losses
from tests.train.toy_task import ToyTask, config


def traced(run, rank=0):
    with gzip.open(run / "profile" / f"rank-{rank}.json.gz") as file:
        events = json.load(file)["traceEvents"]
    return {event["name"] for event in events if event.get("name", "").startswith("step ")}


def test_a_window_of_steps_is_traced_with_times_and_memory(tmp_path, capfd):
    Trainer(ToyTask(), config(steps=6, profile=[3, 4]), tmp_path, seed=1).run()
    assert traced(tmp_path) == {"step 3", "step 4"}
    Trainer(ToyTask(), config(steps=6), tmp_path / "plain", seed=1).run()
    assert losses(tmp_path) == losses(tmp_path / "plain")
    table = (tmp_path / "profile/rank-0.txt").read_text()
    assert table.startswith("steps 3 to 4, process 0; most memory so far: ")
    assert "Self CPU Mem" in table
    said = f"toy: profile of steps 3 to 4; open it at https://ui.perfetto.dev\n    {tmp_path}/profile/rank-0.json.gz"
    out, err = capfd.readouterr()
    assert said in out
    assert "profiler_st" not in err  # lines of its library


def test_a_run_that_fails_within_the_window_leaves_its_trace(tmp_path):
    with pytest.raises(ValueError, match="not finite"):
        Trainer(ToyTask(poison=range(4, 40)), config(steps=40, profile=[3, 40]), tmp_path, seed=1).run()
    assert "step 5" in traced(tmp_path)


def test_a_trace_that_another_rank_cannot_write_is_told(tmp_path, capfd):
    (tmp_path / "profile").write_text("no folder")
    device, silent = torch.device("cpu"), lambda *_: None
    profile = Profile((1, 1), tmp_path / "profile", rank=3, device=device, note=silent)
    profile.start_step(1)
    profile.end_step(1)
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("profile of rank 3: failed; the run continues without it: ")
    assert str(tmp_path / "profile") in line


def test_a_window_beyond_the_end_of_the_run_is_refused():
    config(steps=5, profile=[5, 6])
    with pytest.raises(ValueError, match=r"profile=\[5, 6\] begins after the last step, 4; choose earlier ones"):
        config(steps=4, profile=[5, 6])


def test_a_run_that_goes_on_beyond_the_window_traces_nothing(tmp_path):
    Trainer(ToyTask(), config(steps=4), tmp_path, seed=1).run()
    Trainer(ToyTask(), config(steps=6, profile=[2, 3]), tmp_path, seed=1).run()
    assert not (tmp_path / "profile").exists()


@pytest.mark.parametrize("window", [[0, 3], [4, 3], [1, 101]])
def test_a_window_is_in_order_and_small_enough_to_open(window):
    with pytest.raises(ValueError, match="the first and the last of at most 100 steps"):
        config(profile=window)

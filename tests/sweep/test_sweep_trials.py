"""Trials are run once, whatever ends, fails or shares the sweep."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from fourm_engine.recipes.config import load_config
from fourm_engine.sweep import workers
from fourm_engine.sweep.sweep import Sweep, sweep
from fourm_engine.yaml_config import ConfigError
from tests.running import silent


def test_trials_are_averaged_over_seeds_ordered_and_written_down(sweeps, tmp_path):
    report = sweep(sweeps.file(grid={"train.lr": [0.3, 0.1, 0.2]}, seeds=[0, 2]), print_fn=silent)
    best = report.ranked[0]
    assert best.point == {"train.lr": 0.1}
    assert best.values == pytest.approx([0.2, 0.24])  # the mean of the held-out losses a and b
    assert best.deviation == pytest.approx(0.04 / 2**0.5)
    assert [group.point["train.lr"] for group in report.ranked] == [0.1, 0.2, 0.3]
    facts = json.loads((tmp_path / "out/sweep.json").read_text())
    assert facts["best"]["mean"] == pytest.approx(0.22)
    assert len(facts["trials"]) == 6
    assert facts["trials"][0]["parameters"] == 16_000


def test_what_a_killed_sweep_left_beside_a_trial_is_removed(sweeps, tmp_path):
    path = sweeps.file(grid={"train.lr": [0.1]})
    sweep(path, print_fn=silent)
    (outcome,) = (tmp_path / "out").rglob("outcome.json")
    left = outcome.parent.with_name(f".{outcome.parent.name}.yaml.999999999-1.part")
    outcome.unlink()
    left.touch()
    sweep(path, print_fn=silent)
    assert outcome.exists()
    assert not left.exists()


def test_the_best_config_is_one_that_trains_with_its_settings(sweeps, tmp_path):
    sweep(
        sweeps.file(grid={"train.lr": [0.3, 0.1]}, settings={"train.batch_size": 4}, budget={"steps": 7}),
        print_fn=silent,
    )
    config = load_config(tmp_path / "out/best.yaml")
    assert (config.train.lr, config.train.batch_size, config.train.steps) == (0.1, 4, 7)
    assert str(config.run) == "out/best"
    assert "eval 0.2" in (tmp_path / "out/best.yaml").read_text().partition("\n")[0]


def test_a_sweep_that_is_done_trains_nothing_and_more_values_train_the_rest(sweeps):
    sweep(sweeps.file(grid={"train.lr": [0.1]}), print_fn=silent)
    sweep(sweeps.file(grid={"train.lr": [0.1]}), print_fn=silent)
    assert sweeps.calls() == ["lr=0.1,seed=0"]
    report = sweep(sweeps.file(grid={"train.lr": [0.1, 0.2]}, seeds=[0, 1]), print_fn=silent)
    assert sorted(sweeps.calls()) == ["lr=0.1,seed=0", "lr=0.1,seed=1", "lr=0.2,seed=0", "lr=0.2,seed=1"]
    assert all(group.whole for group in report.groups)


def test_one_that_fails_is_a_line_and_the_rest_go_on_and_it_is_tried_again(sweeps):
    sweeps.program("if lr == 0.2: sys.exit('fourm: error: no tokens')\n" + "trained(lr)")
    path, lines = sweeps.file(grid={"train.lr": [0.1, 0.2, 0.3]}), list[str]()
    report = sweep(path, print_fn=lines.append)
    assert [line for line in lines if "failed" in line] == [
        "[2/3] lr=0.2,seed=0: failed: no tokens; see out/trials/lr=0.2,seed=0/log.txt"
    ]
    assert [group.point["train.lr"] for group in report.ranked if group.rank] == [0.1, 0.3]
    assert report.results[1].error == "no tokens"
    sweeps.program("trained(lr)")
    report = sweep(path, print_fn=silent)
    assert sweeps.calls() == [f"lr={lr},seed=0" for lr in (0.1, 0.2, 0.3, 0.2)]
    assert all(result.state == "done" for result in report.results)


def test_one_that_is_killed_is_told_by_its_signal(sweeps):
    sweeps.program("os.kill(os.getpid(), signal.SIGKILL) if lr == 0.2 else trained(lr)")
    report = sweep(sweeps.file(grid={"train.lr": [0.1, 0.2]}), print_fn=silent)
    assert report.results[1].error == "killed by SIGKILL"


def test_a_sweep_whose_first_trials_fail_for_one_reason_ends(sweeps):
    sweeps.program("sys.exit(f'fourm: error: {folder}: no data')")
    with pytest.raises(ValueError, match=r"first 3 trials failed for one reason, and 2 trials were not tried: "):
        sweep(sweeps.file(grid={"train.lr": [0.1, 0.2, 0.3, 0.4, 0.5]}), print_fn=silent)
    assert len(sweeps.calls()) == 3


def test_a_stop_lets_trials_save_and_they_go_on_later(sweeps, tmp_path):
    sweeps.program(
        "def save(*_): (home / 'saved').touch(); sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "if lr == 0.1 and not (home / 'saved').exists():\n"
        "    (home / 'held').touch()\n"
        "    signal.pause()\n"
        "while not (home / 'held').exists(): time.sleep(0.01)\n"
        "trained(lr)"
    )

    def stop(line):
        if "lr=0.2" in line:  # while the first one is at work
            raise KeyboardInterrupt

    path = sweeps.file(grid={"train.lr": [0.1, 0.2, 0.3]})
    with pytest.raises(KeyboardInterrupt):
        sweep(path, jobs=2, print_fn=stop)
    assert (tmp_path / "saved").exists()
    report = sweep(path, print_fn=silent)
    calls = [name.removesuffix(",seed=0") for name in sweeps.calls()]
    assert sorted(calls[:2]) == ["lr=0.1", "lr=0.2"]  # both at once
    assert calls[2:] == ["lr=0.1", "lr=0.3"]
    assert all(result.value for result in report.results)


def test_two_sweeps_on_one_folder_share_the_trials(sweeps, tmp_path):
    path = sweeps.file(grid={"train.lr": [k / 10 for k in range(1, 7)]})
    # Each waits for the other to have begun, so that both have trials at once.
    sweeps.program(
        "(home / f'at-{os.getppid()}').touch()\nwhile len(list(home.glob('at-*'))) < 2: time.sleep(0.01)\ntrained(lr)"
    )
    children = []
    for _ in range(2):
        if not (child := os.fork()):
            try:
                report = sweep(path, print_fn=silent)
                os._exit(0 if all(group.whole for group in report.groups) else 3)
            except BaseException:
                os._exit(4)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert sorted(sweeps.calls()) == [f"lr=0.{k},seed=0" for k in range(1, 7)]
    assert json.loads((tmp_path / "out/sweep.json").read_text())["best"]["point"] == {"train.lr": 0.1}


CUT = """
if len(words) > 2:
    trained(lr, steps=6)
else:
    def stop(*_):
        leave(state="stopped", step=6)
        sys.exit(143)
    signal.signal(signal.SIGTERM, stop)
    leave(state="running")
    while True: signal.pause()
"""


def test_a_trial_that_has_trained_for_its_time_is_evaluated_as_it_is(sweeps, tmp_path):
    sweeps.program(CUT)
    report = sweep(sweeps.file(grid={"train.lr": [0.1]}, budget={"minutes": 1e-9}), print_fn=silent)
    words = [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]
    assert words[1][2:] == ["train.steps=6", *workers.EVALUATE_NOW]
    assert report.results[0].value == pytest.approx(0.2)
    assert report.to_json()["trials"][0]["cut_at_step"] == 6
    assert any("budget.minutes" in note for note in report.notes)


def test_one_that_was_cut_when_all_ended_is_not_trained_on(sweeps, tmp_path):
    sweeps.program(CUT)
    path = sweeps.file(grid={"train.lr": [0.1]}, budget={"minutes": 1e-9})
    trials = Sweep(path, print_fn=silent)
    trials.folder.write(trials.trials[0])
    trials.folder.record(trials.trials[0], workers.Outcome("cut", step=4))
    sweep(path, print_fn=silent)
    assert [json.loads(line)[2] for line in (tmp_path / "calls").read_text().splitlines()] == ["train.steps=4"]


def test_torchrun_is_told_that_trials_have_processes(sweeps, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="type the command without torchrun"):
        sweep(sweeps.file(grid={"train.lr": [0.1]}), print_fn=silent)
    assert not sweeps.calls()


def test_a_trial_stops_when_the_sweep_is_gone():
    program = (
        "import signal; from fourm_engine.cli.child import stop_with_parent; stop_with_parent(); "
        "print('up', flush=True); signal.pause()"
    )
    child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"up\n"
    child.stdin.close()
    assert child.wait(timeout=60) == -signal.SIGTERM


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"train": {"weight_decay": 0.5}}, "train.weight_decay=not set, and now train.weight_decay would be 0.5"),
        ({"model": {"width": 32}}, "model.width=16, and now model.width would be 32"),
    ],
)
def test_a_base_that_changed_since_is_refused_before_any_work(sweeps, changed, says):
    sweep(sweeps.file(grid={"train.lr": [0.1]}), print_fn=silent)
    sweeps.base(changed)
    with pytest.raises(ConfigError) as caught:
        sweep(sweeps.file(grid={"train.lr": [0.1, 0.2]}), print_fn=silent)
    said = f"sweep.yaml: lr=0.1,seed=0 is there with {says}; undo the change, or choose another `out`"
    assert str(caught.value) == said
    assert len(sweeps.calls()) == 1


def test_a_budget_that_changed_since_is_refused(sweeps):
    sweep(sweeps.file(grid={"train.lr": [0.1]}, budget={"steps": 5}), print_fn=silent)
    with pytest.raises(ConfigError, match=r"train\.steps=5, and now train\.steps would be 6"):
        sweep(sweeps.file(grid={"train.lr": [0.1]}, budget={"steps": 6}), print_fn=silent)


def test_a_folder_of_another_sweep_is_refused_and_values_that_are_gone_are_left_out(sweeps):
    sweep(sweeps.file(grid={"train.lr": [0.1, 0.2]}), print_fn=silent)
    with pytest.raises(ConfigError, match=r"out holds 2 trials of another sweep, such as lr=0.1,seed=0, and none"):
        sweep(sweeps.file(grid={"train.lr": [0.1], "model.width": [16]}), print_fn=silent)
    report = sweep(sweeps.file(grid={"train.lr": [0.2]}), print_fn=silent)
    assert [group.point for group in report.groups] == [{"train.lr": 0.2}]
    assert any("not of this file any more" in note for note in report.notes)


def test_a_trial_without_a_finite_number_is_said_and_ranks_nowhere(sweeps):
    sweeps.program("leave({'step': 10, 'eval': {'a': None}}) if lr == 0.2 else trained(lr)")
    report = sweep(sweeps.file(grid={"train.lr": [0.1, 0.2]}), print_fn=silent)
    assert [group.rank for group in report.groups] == [1, None]
    assert report.results[1].error == "no finite eval"

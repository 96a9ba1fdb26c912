"""Draws that learn from the trials before them, kept by the folder alone."""

from __future__ import annotations

import json

import pytest

from fourm_engine.sweep.config import Distribution
from fourm_engine.sweep.search import next_draw
from fourm_engine.sweep.sweep import sweep
from tests.running import silent

pytest.importorskip("optuna")
SPACES = {"x": Distribution(uniform=(0.0, 10.0)), "kind": Distribution(choice=("bad", "good"))}


def searched(goal, trials=40):
    sign = 1 if goal == "min" else -1
    draws, values = {}, {}
    for number in range(trials):
        draws[number] = next_draw(number, SPACES, draws, values, goal=goal, seed=0)
        x, kind = draws[number]["x"], draws[number]["kind"]
        values[number] = sign * ((x - 7) ** 2 + 20 * (kind == "bad"))
    return draws


@pytest.mark.parametrize("goal", ["min", "max"])
def test_draws_come_closer_to_the_best(goal):
    draws = searched(goal)
    late = [draws[number] for number in range(30, 40)]
    assert sum(draw["kind"] == "good" for draw in late) >= 7
    assert sorted(abs(draw["x"] - 7) for draw in late)[5] < 2.0


def test_a_failed_and_a_running_draw_count_and_the_next_one_follows_from_all():
    draws = {0: {"x": 1.0, "kind": "bad"}, 1: {"x": 2.0, "kind": "good"}, 2: {"x": 3.0, "kind": "good"}}
    one = next_draw(3, SPACES, draws, {0: None, 1: 5.0}, goal="min", seed=0)
    assert one == next_draw(3, SPACES, draws, {0: None, 1: 5.0}, goal="min", seed=0)
    assert 0 <= one["x"] <= 10
    assert one["kind"] in ("bad", "good")


def test_a_search_that_is_stopped_goes_on_with_its_draws(sweeps, tmp_path):
    def stop(line):
        if line.startswith("[2/"):
            raise KeyboardInterrupt

    random = {"train.lr": {"log_uniform": [1e-3, 1.0]}, "model.heads": {"choice": [1, 2]}}
    path = sweeps.file(random=random, budget={"trials": 4}, sampler="optuna", seeds=[0, 1])
    with pytest.raises(KeyboardInterrupt):
        sweep(path, print_fn=stop)
    before = json.loads((tmp_path / "out/draws.json").read_text())["draws"]
    report = sweep(path, print_fn=silent)
    after = json.loads((tmp_path / "out/draws.json").read_text())["draws"]
    assert {key: after[key] for key in before} == before
    assert len(after) == 4
    assert len(sweeps.calls()) == 8
    assert {tuple(group.point) for group in report.groups} == {("train.lr", "model.heads")}
    assert all(len(group.values) == 2 for group in report.groups)


def test_draws_that_do_not_fit_the_file_any_more_are_refused(sweeps):
    def file(high):
        return sweeps.file(
            random={"train.lr": {"uniform": [0.1, high]}}, budget={"trials": 3}, sampler="optuna", seeds=[0]
        )

    def stop(line):
        if line.startswith("[1/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(file(9.0), print_fn=stop)
    with pytest.raises(ValueError, match=r"draw 0 is there and does not fit .*choose another `out`"):
        sweep(file(0.100001), print_fn=silent)

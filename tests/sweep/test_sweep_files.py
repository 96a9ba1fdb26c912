"""A sweep file is checked as a whole before anything is written; its trials follow from it alone."""

from __future__ import annotations

import math
import sys

import pytest
import yaml

from fourm_engine.sweep.config import Distribution, SweepConfig
from fourm_engine.sweep.plan import Plan
from fourm_engine.sweep.sweep import Sweep
from fourm_engine.yaml_config import ConfigError

GRID = {"train.lr": [0.1, 0.2]}


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"grid": {"train.lrr": [1]}}, r"lrr=1,seed=0: train\.lrr: unknown key; did you mean train\.lr\?"),
        ({"grid": {"train.lr": [0.1, -1]}}, r"lr=-1,seed=0: train\.lr: must be greater than 0 \(given: -1\)"),
        ({"grid": GRID, "settings": {"model.heads": 5}}, r"width=16 is not a multiple of heads=5"),
        ({"grid": {"run": ["a"]}}, r"run cannot be varied: each trial has a folder below `out`"),
        ({"grid": {"seed": [1]}}, r"seed cannot be varied: name the seeds in `seeds`"),
        ({"grid": {"a rate": [1]}}, r"grid\.a rate is a list of values, so 'a rate' must be a key, such as train\.lr"),
        ({"grid": {"train.lr": []}}, r"grid\.train\.lr has no value"),
        ({"grid": GRID, "points": [{"train.lr": 0.3}]}, r"train\.lr is varied twice; keep one of grid, points"),
        ({"grid": {"train.lr": [0.1, 0.1]}}, r"lr=0\.1,seed=0 occurs twice"),
        ({"grid": GRID, "seeds": [1, 1]}, r"seeds: one occurs twice"),
        ({}, r"nothing to vary; set grid, points, random or several seeds"),
        ({"random": {"train.lr": {"uniform": [0.1, 1]}}}, r"set budget\.trials"),
        ({"grid": GRID, "budget": {"trials": 3}}, r"budget\.trials counts the draws of `random`, and there is none"),
        ({"grid": {"train.steps": [1]}, "budget": {"steps": 3}}, r"budget\.steps and train\.steps both say how long"),
        ({"random": {"train.lr": {"uniform": [1, 0]}}, "budget": {"trials": 1}}, r"the lower one first"),
        ({"random": {"train.lr": {"log_uniform": [0, 1]}}, "budget": {"trials": 1}}, r"numbers above 0"),
        ({"random": {"train.lr": {}}, "budget": {"trials": 1}}, r"random\.train\.lr: set one of uniform, log_uniform"),
        ({"grid": GRID, "measure": {"key": "accuracy"}}, r"measure\.key: String should match pattern"),
        ({"grid": GRID, "scaling": ["width"]}, r"scaling: width is neither varied nor measured; there are flops, par"),
        ({"grid": GRID, "scaling": ["parameter"]}, r"scaling: parameter is .* did you mean 'parameters'\?"),
        ({"grid": GRID, "out": "base.yaml"}, r"out: base\.yaml is a file; name a folder"),
        ({"grid": GRID, "out": "a-run"}, r"out: a-run is the folder of a run"),
        ({"grid": GRID, "encoders": {}}, r"is the file of a suite, as its encoders says; type fourm suite sweep\.yaml"),
        ({"grids": GRID}, r"grids: unknown key; did you mean grid\?"),
        ({"grid": GRID, "base": "absent.yaml"}, r"absent\.yaml: no such config file"),
        ({"grid": GRID, "base": "sweep.yaml"}, r"base names this file"),
        (
            {"grid": {"train.lr": list(range(1, 200)), "train.batch_size": list(range(1, 200))}},
            r"39601 trials; at most",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line_and_nothing_is_written(sweeps, tmp_path, sections, says):
    (tmp_path / "a-run").mkdir()
    (tmp_path / "a-run/run.json").write_text("{}")
    with pytest.raises(ConfigError, match=says) as caught:
        Sweep(sweeps.file(**sections))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def trials(sweeps, **sections):
    return Sweep(sweeps.file(**sections)).trials


def test_grid_points_and_seeds_multiply_and_each_has_its_whole_config(sweeps):
    found = trials(
        sweeps,
        grid={
            "train.lr": [0.1, 0.2],
            "shape": {"flat": {"model.encoder_blocks": 1}, "deep": {"model.encoder_blocks": 3}},
        },
        points=[{"name": "plain"}, {"name": "decay", "train.weight_decay": 0.3}],
        seeds=[0, 7],
    )
    assert len(found) == 16
    one = next(trial for trial in found if trial.name == "lr=0.2,shape=deep,name=decay,seed=7")
    assert one.point == {"train.lr": 0.2, "shape": "deep", "name": "decay"}
    config = one.content
    assert (config["train"]["lr"], config["model"]["encoder_blocks"], config["seed"]) == (0.2, 3, 7)
    assert config["train"]["weight_decay"] == 0.3
    assert config["run"] == "out/trials/lr=0.2,shape=deep,name=decay,seed=7"


def test_a_length_takes_the_place_of_another(sweeps):
    sweeps.base({"train": {"steps": None, "samples": 800}})
    (one,) = trials(sweeps, grid={"train.lr": [0.1]}, budget={"steps": 3})
    assert (one.content["train"]["steps"], one.content["train"]["samples"]) == (3, None)


def test_an_override_below_settings_sets_one_key_and_keeps_the_others(sweeps):
    path = sweeps.file(grid={"train.lr": [0.1]}, settings={"train.steps": 5, "train.batch_size": 4})
    (one,) = Sweep(path, ["settings.train.steps=7"]).trials
    assert (one.content["train"]["steps"], one.content["train"]["batch_size"]) == (7, 4)


def test_values_that_a_name_cannot_say_get_folders_of_their_own(sweeps):
    mixtures = [[{"name": "x", "input": {"*": alpha}}] for alpha in (0.1, 1.0)]
    one, two = trials(sweeps, grid={"masking.mixture": mixtures})
    assert one.name != two.name
    assert one.name.startswith("mixture=x,seed=0-")
    assert "/" not in trials(sweeps, grid={"tokenizers.folder": ["../a/b"]})[0].name


def test_draws_stay_the_same_when_there_are_more_draws_and_more_keys(sweeps):
    rate = {"train.lr": {"log_uniform": [1e-4, 1e-1]}}
    few = trials(sweeps, random=rate, budget={"trials": 3})
    more = {"train.weight_decay": {"uniform": [0, 1]}, "model.heads": {"choice": [1, 2, 4]}}
    many = trials(sweeps, random=rate | more, budget={"trials": 8})
    assert [t.point["train.lr"] for t in few] == [t.point["train.lr"] for t in many[:3]]
    assert few[1].name == "draw=1,seed=0"
    assert few[1].point == {"train.lr": few[1].content["train"]["lr"]}
    assert len({t.point["train.lr"] for t in many}) == 8
    other = trials(sweeps, random=rate, budget={"trials": 3}, seed=1)
    assert [t.point for t in few] != [t.point for t in other]


def test_distributions_cover_their_range_and_stay_in_it():
    def values(number=400, **kind):
        return [Distribution(**kind).value(0, k, "x") for k in range(number)]

    assert set(values(integers=(2, 5))) == {2, 3, 4, 5}
    assert set(values(integers=(32, 130), step=32)) == {32, 64, 96, 128}
    assert set(map(str, values(choice=("a", None, [1])))) == {"a", "None", "[1]"}
    assert set(values(log_integers=(1, 4))) == {1, 2, 3, 4}
    logs = [math.log10(value) for value in values(log_uniform=(1e-4, 1e-2))]
    assert -4 <= min(logs) < -3.95 < -2.05 < max(logs) <= -2
    assert sum(log < -3 for log in logs) == pytest.approx(200, abs=30)
    flat = values(uniform=(2.0, 4.0))
    assert 2 <= min(flat) < 2.05 < 3.95 < max(flat) <= 4
    assert sum(flat) / 400 == pytest.approx(3, abs=0.1)


def test_a_stored_run_is_a_base_like_any_other(sweeps, tmp_path):
    config = yaml.safe_load((tmp_path / "base.yaml").read_text())
    (tmp_path / "runs/x").mkdir(parents=True)
    (tmp_path / "runs/x/config.yaml").write_text(yaml.safe_dump(config))
    (one,) = trials(sweeps, base="runs/x/config.yaml", grid={"train.lr": [0.1]})
    assert one.content["model"] == config["model"]


def test_a_base_that_extends_a_model_is_refused(sweeps, tmp_path):
    config = yaml.safe_load((tmp_path / "base.yaml").read_text()) | {"extend": {"source": "runs/x"}}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ConfigError, match=r"base\.yaml: extends a model"):
        trials(sweeps, grid=GRID)


def test_optuna_is_named_where_it_is_not_installed(sweeps, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    path = sweeps.file(random={"train.lr": {"uniform": [0.1, 1]}}, budget={"trials": 1}, sampler="optuna")
    with pytest.raises(ValueError, match=r"sampler: optuna needs optuna: pip install 'fourm-engine\[optuna\]'"):
        Sweep(path)


def test_what_a_search_may_draw_is_tried_before_it_begins(sweeps):
    pytest.importorskip("optuna")
    path = sweeps.file(random={"model.heads": {"integers": [1, 3]}}, budget={"trials": 1}, sampler="optuna")
    with pytest.raises(ConfigError, match=r"random: model\.heads=3: model: width=16 is not a multiple of heads=3"):
        Sweep(path)


def test_the_plan_reads_its_base_once(sweeps, tmp_path):
    config = SweepConfig(base="base.yaml", out="out", grid=GRID)
    plan = Plan(config, tmp_path / "sweep.yaml")
    sweeps.base({"model": {"width": 32}})
    assert {trial.content["model"]["width"] for trial in plan.trials({})} == {16}

"""`fourm sweep` and `fourm suite` as a user types them, the last ones with real training."""

from __future__ import annotations

import json

import pytest
import yaml
from typer.testing import CliRunner

from fourm_engine.cli.app import app
from fourm_engine.recipes.config import load_config
from fourm_engine.recipes.runs import open_run
from fourm_engine.recipes.train import train
from fourm_engine.sweep.workers import EVALUATE_NOW
from tests.finetune.based import config_of, prepare
from tests.running import silent


def run(*words):
    done = CliRunner().invoke(app, list(map(str, words)))
    if isinstance(done.exception, ValueError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done


def test_the_table_is_ordered_and_says_what_failed(sweeps):
    sweeps.program("if lr == 0.3: sys.exit('fourm: error: no [tokens]')\ntrained(lr + seed)")
    done = run("sweep", sweeps.file(grid={"train.lr": [0.3, 0.2, 0.1]}, seeds=[0, 1]))
    rows = [line.split() for line in done.stdout.splitlines()]
    (best,) = (row for row in rows if row[:2] == ["1", "0.1"])
    assert best[2:6] == ["1.2", "±", "1.4", "2/2"]
    assert ["2", "0.2"] in [row[:2] for row in rows]
    assert any(row[-2:] == ["no", "[tokens]"] for row in rows)
    assert "best: fourm train out/best.yaml" in done.stdout
    assert "[1/6] lr=0.3,seed=0: failed: no [tokens]" in done.stderr


def test_a_sweep_of_which_every_trial_failed_has_failed(sweeps):
    sweeps.program("sys.exit(f'fourm: error: {lr}')")
    done = CliRunner().invoke(app, ["sweep", str(sweeps.file(grid={"train.lr": [0.3, 0.2]}))])
    assert done.exit_code == 1
    assert "[2/2] lr=0.2,seed=0: failed: 0.2" in done.output


def test_json_is_all_of_the_standard_output_and_a_dry_run_writes_nothing(sweeps, tmp_path):
    path = sweeps.file(grid={"train.lr": [0.2, 0.1]})
    assert (
        run("sweep", path, "--dry-run").stdout == "trials/lr=0.2,seed=0: to be done\ntrials/lr=0.1,seed=0: to be done\n"
    )
    assert not (tmp_path / "out").exists()
    assert "not trained yet" in run("sweep", path, "--report").stdout
    assert not sweeps.calls()
    found = json.loads(run("sweep", path, "seeds=[0, 1]", "--json").stdout)
    assert found["best"]["point"] == {"train.lr": 0.1}
    assert [len(group["values"]) for group in found["groups"]] == [2, 2]
    assert "trials/lr=0.1,seed=0: done" in run("sweep", path, "--dry-run").stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with data, tokens, tokenizers and a trained run."""
    folder = tmp_path_factory.mktemp("trained")
    prepare(folder)
    return folder


def test_a_suite_fine_tunes_a_trained_model_with_the_ordinary_recipe(trained, tmp_path, monkeypatch):
    task = yaml.safe_load(config_of(trained, tmp_path, select=None).read_text())
    (tmp_path / "task.yaml").write_text(yaml.safe_dump({k: v for k, v in task.items() if k != "finetune"}))
    suite = {
        "out": "suite",
        "encoders": {"base": {"source": str(trained / "base")}},
        "tasks": {"picture": {"train": "task.yaml", "measure": {"key": "eval.rgb"}}},
    }
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(suite))
    monkeypatch.chdir(tmp_path)
    found = json.loads(run("suite", "suite.yaml", "--json").stdout)
    assert found["mean_ranks"] == {"base": 1}
    one = open_run(tmp_path / "suite/tasks/task=picture,encoder=base,seed=0")
    assert (one.facts["what"], one.step) == ("finetuning", 4)
    assert found["tasks"]["picture"]["best"]["mean"] == one.lines[-1].held_out["rgb"]
    assert "picture: eval.rgb (min)" in run("suite", "suite.yaml").stdout  # nothing is left to do
    assert (tmp_path / "suite/pictures/picture/by-encoder.png").is_file()


def test_a_run_that_was_cut_is_evaluated_with_the_weights_that_it_has(trained, tmp_path):
    raw = yaml.safe_load((trained / "base.yaml").read_text())
    raw["train"] |= {"steps": None, "tokens": 10**9, "warmup": 50}
    raw["run"] = str(tmp_path / "run")
    (tmp_path / "long.yaml").write_text(yaml.safe_dump(raw))
    train(load_config(tmp_path / "long.yaml", ["train.steps=3", *EVALUATE_NOW]), print_fn=silent)
    weights = (tmp_path / "run/model/model.safetensors").read_bytes()
    for name in ("finished.json", "metrics.jsonl"):  # as where the run was stopped after the step
        (tmp_path / "run" / name).unlink()
    train(load_config(tmp_path / "long.yaml", ["train.steps=3", *EVALUATE_NOW]), print_fn=silent)
    assert (tmp_path / "run/model/model.safetensors").read_bytes() == weights
    assert open_run(tmp_path / "run").lines[-1].held_out

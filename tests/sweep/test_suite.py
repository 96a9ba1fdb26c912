"""A suite runs every encoder with every task and seed, trains the encoders that are missing, and ranks them."""

from __future__ import annotations

import json

import pytest
import yaml

from fourm_engine.sweep.suite import Suite
from fourm_engine.yaml_config import ConfigError
from tests.running import fourm, refused, silent

BODY = """
if words[0] == "probe":
    print(json.dumps({"accuracy": {"4m": 0.9, "none": 0.1}.get(words[2], 0.5) + int(words[3]) / 100}))
    sys.exit()
source = (config.get("finetune") or {}).get("source", "nothing")
if "bad" in str(folder) and "encoders" in str(folder): sys.exit("fourm: error: no tokens")
trained({"nothing": 4, "out/encoders/4m": 1, "out/encoders/mae": 2}.get(source, 3) + seed / 100)
"""
TASK = {"train": "base.yaml", "measure": {"key": "eval.a"}}
PROBE = {"command": ["probe", "{encoder}", "{name}", "{seed}"], "measure": {"key": "result.accuracy", "goal": "max"}}


@pytest.fixture
def suite(sweeps):
    sweeps.program(BODY)

    def made(**sections):
        raw = {"out": "out", "encoders": {"4m": {"train": "base.yaml"}}, "tasks": {"depth": TASK}, **sections}
        (sweeps.home / "suite.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
        return Suite(sweeps.home.joinpath("suite.yaml").relative_to(sweeps.home), print_fn=silent)

    return made


def test_encoders_are_trained_first_and_ranked_by_each_task(suite, sweeps, tmp_path):
    encoders = {
        "scratch": {},
        "mae": {"train": "base.yaml", "settings": {"train.batch_size": 4}},
        "4m": {"train": "base.yaml"},
    }
    tasks = {"depth": TASK, "classes": PROBE}
    report = suite(encoders=encoders, tasks=tasks, seeds=[0, 2]).run()
    calls = [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]
    assert calls[0] == ["train", "out/encoders/mae.yaml"]
    assert ["probe", "out/encoders/4m", "4m", "2"] in calls
    assert len(calls) == 2 + 6 + 4
    depth = report.tasks["depth"]
    assert [g.point["encoder"] for g in depth.ranked] == ["4m", "mae", "scratch"]
    assert depth.ranked[0].values == pytest.approx([1.0, 1.02])
    assert [g.point["encoder"] for g in report.tasks["classes"].ranked] == ["4m", "mae"]
    assert report.mean_ranks() == {"4m": 1, "mae": 2}  # scratch has no model to probe
    assert any("classes: left out for scratch" in note for note in report.notes)
    facts = json.loads((tmp_path / "out/suite.json").read_text())
    assert facts["tasks"]["classes"]["best"]["mean"] == pytest.approx(0.91)
    task = yaml.safe_load((tmp_path / "out/tasks/task=depth,encoder=mae,seed=2.yaml").read_text())
    assert task["finetune"] == {"source": "out/encoders/mae"}
    assert task["seed"] == 2
    assert yaml.safe_load((tmp_path / "out/encoders/mae.yaml").read_text())["train"]["batch_size"] == 4


def test_tasks_that_differ_by_a_number_are_drawn_over_it_with_a_line_for_what_else_differs(suite, tmp_path):
    tasks = {f"{share}": {**TASK, "settings": {"data.train_share": share}} for share in (0.1, 0.5)}
    tasks["0.5, frozen"] = {**TASK, "settings": {"data.train_share": 0.5, "train.betas": [0.8, 0.9]}}
    encoders = {"scratch": {}, "4m": {"train": "base.yaml"}}
    report = suite(encoders=encoders, tasks=tasks, along=["data.train_share"]).run()
    picture = tmp_path / "out/pictures/eval.a-along-data.train_share.png"
    assert f"along data.train_share: {picture.relative_to(tmp_path)} (and .svg)" in report.notes
    text = picture.with_suffix(".svg").read_text()
    assert all(f">{label}<" in text for label in ("scratch", "4m, betas 0.8+0.9", "data.train_share", "0.1", "0.5"))


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("data.train_shar", "is no number in the config of a task; did you mean 'data.train_share'?"),
        ("train.batch_size", "is 8 in all tasks; numbers in which tasks differ: data.train_share"),
        ("seed", "tells trials apart, not tasks; numbers in which tasks differ: data.train_share"),
    ],
)
def test_a_key_to_draw_along_in_which_tasks_do_not_differ_ends_a_suite_before_it_writes(suite, tmp_path, key, said):
    tasks = {f"{share}": {**TASK, "settings": {"data.train_share": share}} for share in (0.1, 0.5)}
    with pytest.raises(ConfigError) as error:
        suite(tasks=tasks, along=[key], seeds=[0, 1])
    assert str(error.value) == f"suite.yaml: along: {key} {said}"
    assert not (tmp_path / "out").exists()


def test_what_is_there_is_kept_and_a_new_task_runs_alone(suite, sweeps, tmp_path):
    suite().run()
    assert len(sweeps.calls()) == 2
    suite(tasks={"depth": TASK, "more": {**TASK, "settings": {"train.lr": 0.5}}}).run()
    assert sweeps.calls()[2:] == ["task=more,encoder=4m,seed=0"]


def test_tasks_of_an_encoder_that_failed_say_so_and_the_others_run(suite, sweeps):
    report = suite(encoders={"bad": {"train": "base.yaml"}, "4m": {"train": "base.yaml"}}).run()
    errors = {r.trial.point["encoder"]: r.error for r in report.tasks["depth"].results}
    assert errors == {"bad": "needs encoders/bad, which failed", "4m": ""}
    assert report.mean_ranks() == {"4m": 1}
    assert len(sweeps.calls()) == 3


HEAD = {
    "modalities": {"select": ["rgb@pixels"]},
    "data": {"train": "data/train", "val": "data/val"},
    "task": {"kind": "classification"},
    "train": {"batch_size": 4, "steps": 8, "lr": 0.1},
}


def test_a_task_with_a_head_is_fine_tuned_from_every_encoder_that_is_a_model(suite, tmp_path):
    (tmp_path / "head.yaml").write_text(yaml.safe_dump(HEAD))
    task = {"train": "head.yaml", "settings": {"train.lr": 0.2}, "measure": {"key": "eval.accuracy", "goal": "max"}}
    found = suite(encoders={"4m": {"train": "base.yaml"}, "scratch": {}}, tasks={"classes": task})
    assert found.run().tasks["classes"].best.mean == 50
    calls = [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]
    assert calls[1] == ["finetune", "out/tasks/task=classes,encoder=4m,seed=0.yaml"]
    assert len(calls) == 2
    (note,) = found.notes
    assert note.startswith("tasks.classes: left out for scratch, which has no model to start from; ")
    with pytest.raises(ConfigError, match=r"tasks\.classes from 4m: .*mixupp: unknown key; did you mean .*mixup"):
        suite(tasks={"classes": task | {"settings": {"task.mixupp": 1}}})


def test_a_measure_that_no_trial_leaves_is_told_with_the_name_that_was_meant(suite):
    told = []
    made = suite(encoders={"scratch": {}}, tasks={"depth": {**TASK, "measure": {"key": "eval.acuracy"}}})
    made.print_fn = told.append
    made.run()
    assert told[-1].endswith("done, but left no finite eval.acuracy; did you mean 'accuracy'?")


def test_a_dry_run_refuses_a_command_that_fourm_has_not(suite, tmp_path):
    suite(tasks={"classes": PROBE | {"command": ["prob", "{encoder}"]}})
    told = refused("suite", tmp_path / "suite.yaml", "--dry-run")
    assert told.endswith("suite.yaml: tasks.classes.command: fourm has no command 'prob'; did you mean 'probe'?")
    suite(tasks={"classes": PROBE})
    assert "task=classes" in fourm("suite", tmp_path / "suite.yaml", "--dry-run")


def test_a_command_may_leave_its_numbers_in_a_file_of_its_name(suite, sweeps, tmp_path):
    sweeps.program("Path(words[1]).joinpath('probe.json').write_text(json.dumps({'top1': 0.25}))")
    command = {"command": ["probe", "{out}"], "result": "probe.json", "measure": {"key": "result.top1", "goal": "max"}}
    report = suite(encoders={"4m": {}}, tasks={"probe": command}).run()
    assert report.tasks["probe"].best.mean == 0.25
    for outside in ("../probe.json", "run/../../probe.json", "/probe.json"):
        with pytest.raises(ConfigError, match=r"tasks\.probe\.result"):
            suite(tasks={"probe": command | {"result": outside}})


def test_a_command_may_leave_its_numbers_in_a_folder_below(suite, sweeps):
    sweeps.program(
        "Path(words[1], 'run').mkdir(); "
        "rows = [{'case': 'known', 'modality': 'x', 'after': 3.0}, {'case': 'new', 'modality': 'x', 'after': 2.0}]; "
        "Path(words[1], 'run/extend.json').write_text(json.dumps({'rows': rows}))"
    )
    command = {
        "command": ["extend", "{out}"],
        "result": "run/extend.json",
        "measure": {"key": "result.rows.new.x.after"},
    }
    report = suite(encoders={"4m": {}}, tasks={"x out": command}).run()
    assert report.tasks["x out"].best.mean == 2.0


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"tasks": {"a": {}}}, r"tasks\.a: set train, a config, or command"),
        ({"tasks": {"a": {**TASK, "command": ["x"]}}}, r"tasks\.a: set train, a config, or command"),
        ({"tasks": {"a": {"command": ["probe"]}}}, r"tasks\.a: measure\.key of a command is result\.KEY"),
        (
            {"tasks": {"a": PROBE | {"command": ["probe", "{encodr}"]}}},
            r"a: command: {encodr} is .* did you mean {encoder}",
        ),
        ({"tasks": {"a": PROBE | {"settings": {"x": 1}}}}, r"settings are those of the config `train`"),
        ({"tasks": {"a": {**TASK, "settings": {"train.lrr": 1}}}}, r"tasks\.a from 4m: train\.lrr: unknown key"),
        ({"tasks": {"a": {**TASK, "settings": {"train.lr": 0}}}}, r"tasks\.a from 4m: train\.lr: .*greater than 0"),
        ({"tasks": {"a": {**TASK, "settings": {"seed": 1}}}}, r"tasks\.a: seed cannot be varied: name the seeds in"),
        ({"encoders": {"4m": {"in_tasks": {"seed": 1}}}}, r"encoders\.4m: seed cannot be varied: name the seeds in"),
        ({"encoders": {"4m": {"train": "base.yaml", "settings": {"run": "x"}}}}, r"4m: run cannot be varied: each"),
        ({"encoders": {"4m": {"train": "no.yaml"}}}, r"no\.yaml: no such config file"),
        ({"encoders": {"4m": {"train": "base.yaml", "source": "x"}}}, r"encoders\.4m: train and source both name"),
        ({"encoders": {"4m": {"settings": {"train.lr": 1}}}}, r"encoders\.4m: settings are those of the config"),
        ({"encoders": {"4m": {"train": "base.yaml", "settings": {"model.widht": 1}}}}, r"did you mean model\.width"),
        ({"encoders": {"a b": {"train": "base.yaml"}, "a-b": {}}}, r"names that differ in signs alone"),
        ({"encoders": {}}, r"encoders: Dictionary should have at least 1 item"),
        ({"base": "base.yaml"}, r"is the file of a sweep, as its base says; type fourm sweep suite\.yaml"),
        ({"task": {}}, r"is the config of a run; type fourm finetune suite\.yaml"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line_and_nothing_is_written(suite, tmp_path, sections, says):
    with pytest.raises(ConfigError, match=says) as caught:
        suite(**sections)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_an_encoder_may_be_trained_with_several_seeds_of_its_own(suite, tmp_path):
    suite(encoders={f"4m-{seed}": {"train": "base.yaml", "settings": {"seed": seed}} for seed in (0, 3)}).run()
    trained = (yaml.safe_load((tmp_path / f"out/encoders/4m-{seed}.yaml").read_text()) for seed in (0, 3))
    assert [config["seed"] for config in trained] == [0, 3]


def test_names_of_encoders_stay_in_the_folder(suite, tmp_path):
    found = suite(encoders={"../../x": {"train": "base.yaml"}, "..": {"train": "base.yaml"}})
    assert {trial.folder.count("/") for trial in found.trials} == {1}
    assert not any(".." in trial.folder.split("/") for trial in found.trials)


def test_a_model_that_is_there_must_be_one(suite):
    with pytest.raises(ConfigError, match=r"finetune\.source: .*nowhere"):
        suite(encoders={"4m": {"source": "nowhere"}})

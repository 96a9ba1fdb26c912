"""One call evaluates a run and leaves its record and its page."""

from __future__ import annotations

import fcntl
import json
import os
import shutil

import pytest
import yaml

from fourm_engine.files import write_atomically
from fourm_engine.lock import Busy
from fourm_engine.model import FourM
from fourm_engine.recipes.evaluate import evaluate
from fourm_plugins import Metric
from tests.configs import small, store
from tests.pretrain.fourm_run import Host


@pytest.fixture
def run(model, tmp_path, monkeypatch):
    monkeypatch.setattr(FourM, "from_pretrained", lambda path, **options: model)
    (tmp_path / "run/model").mkdir(parents=True)
    (tmp_path / "run/model/config.json").touch()  # a model is there, which the line above loads
    return tmp_path / "run"


def write_config(run, data, **evaluate):
    data = {"train": str(data), "val": str(data)}
    store(run / "config.yaml", small(run.parent, run=str(run), data=data, evaluate=evaluate))


def test_a_run_is_evaluated_with_its_own_config(run, data):
    task = {"name": "all", "inputs": ["a"], "targets": ["*"]}
    gone = {"name": "no", "inputs": ["gone"], "targets": ["b"]}
    write_config(run, data, tasks=[task, gone], pictures=2, samples=8, matrix_samples=6)
    (run / "metrics.jsonl").write_text('{"step": 5, "loss": 2.0, "losses": {"b": 2.0}, "samples_per_s": 10.0}\n')
    (run / "finished.json").write_text('{"step": 10, "scores": {}}')
    found = evaluate(run)
    record = json.loads((run / "evaluation" / "evaluation.json").read_text())
    assert record["run"]["steps"] == 10
    assert record["run"]["training time"] == "0:02"
    assert [t["name"] for t in record["tasks"]] == ["all"]
    scores = record["tasks"][0]["scores"]
    assert {target: [s["metric"] for s in found] for target, found in scores.items()} == {
        "b": ["accuracy"],
        "words": ["exact"],
    }
    assert set(record["tokenizers"]) == {"a", "b", "words"}
    assert record["matrix"]["inputs"][0] == "nothing"
    assert [note for note in record["notes"] if "'gone'" in note]
    page = (run / "evaluation" / "report.html").read_text()
    assert page.count('class="sample"') == 2 == len(found.pictures["all"])
    assert "<svg" in page


def test_the_best_weights_of_a_run_are_evaluated_with_its_config_and_say_their_step(run, data):
    write_config(run, data, samples=5)
    (run / "finished.json").write_text('{"step": 10, "scores": {}}')
    shutil.copytree(run / "model", run / "best/model")
    (run / "best/best.json").write_text('{"step": 4, "measure": "held-out loss", "score": 1.0}')
    found = evaluate(run / "best", matrix=False)
    assert found.folder == run / "best/evaluation"
    assert json.loads((found.folder / "evaluation.json").read_text())["run"]["steps"] == 4


def test_data_of_ones_own_needs_no_config(run, data, tmp_path):
    found = evaluate(run, data=data, out=tmp_path / "out", samples=5, matrix=False)
    assert (tmp_path / "out" / "report.html").is_file()
    assert found.evaluation.matrix is None
    assert found.evaluation.tasks[0].name == "a@pixels → everything"
    assert found.evaluation.run["held-out samples"] == 5
    assert [note for note in found.evaluation.notes if "no constant predictors" in note]


def test_samples_that_no_task_can_use_are_an_error_and_a_runs_own_report_stays(run, data, tmp_path):
    write_config(run, data, samples=4)
    with pytest.raises(ValueError, match=r"--data: .*name a folder with --out"):
        evaluate(run, data=data, matrix=False)
    shutil.copytree(data / "b", tmp_path / "only" / "b")
    with pytest.raises(ValueError, match="only: no sample has both the inputs and a target"):
        evaluate(run, data=tmp_path / "only", out=tmp_path / "out", matrix=False)
    assert not (tmp_path / "out" / "evaluation.json").exists()


def test_the_same_seed_gives_the_same_record(run, data, tmp_path):
    records = []
    for name in ("one", "two"):
        evaluate(run, data=data, out=tmp_path / name, samples=5, seed=3)
        record = json.loads((tmp_path / name / "evaluation.json").read_text())
        for part in (*record["tasks"], record["matrix"]):
            del part["seconds"]
        records.append({key: value for key, value in record.items() if key != "run"})
    assert records[0] == records[1]


def test_tasks_side_by_side_come_to_what_they_come_to_one_by_one(run, data, tmp_path):
    tasks = [{"name": str(k), "inputs": ["a"], "targets": ["b"]} for k in range(3)]
    write_config(run, data, tasks=tasks, samples=4, matrix_samples=4, pictures=1)
    one, two = (evaluate(run, out=tmp_path / str(jobs), jobs=jobs) for jobs in (1, 2))

    def timeless(found):
        found = json.loads((found.folder / "evaluation.json").read_text())
        del found["run"]["evaluation time"], found["matrix"]["seconds"]
        return {**found, "tasks": [{**task, "seconds": None} for task in found["tasks"]]}

    assert timeless(one) == timeless(two)
    assert list(one.pictures) == list(two.pictures) == ["0", "1", "2"]


def test_what_is_missing_is_said_in_one_line(run, data, tmp_path):
    with pytest.raises(ValueError, match=r"holds no config.yaml; give one \(--config\)"):
        evaluate(run)
    write_config(run, data)
    config = yaml.safe_load((run / "config.yaml").read_text())
    del config["data"]["val"]
    store(run / "config.yaml", config)
    with pytest.raises(ValueError, match=r"data\.val names no held-out samples"):
        evaluate(run)
    with pytest.raises(ValueError, match="no such folder"):
        evaluate(tmp_path / "nowhere", data=data)


@pytest.mark.parametrize(("name", "value"), [("samples", 0), ("draws", 1), ("seed", 1 << 63)])
def test_an_argument_is_validated_as_the_setting_that_it_replaces(run, data, tmp_path, name, value):
    with pytest.raises(ValueError, match=rf"^evaluate\.{name}: must be"):
        evaluate(run, data=data, out=tmp_path / "out", **{name: value})


def test_a_run_evaluated_from_elsewhere_finds_its_data(run, data, tmp_path, monkeypatch):
    write_config(run, os.path.relpath(data, tmp_path), tasks=[], samples=4)
    write_atomically(run / "started.json", json.dumps({"folder": str(tmp_path)}))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert evaluate(run, matrix=False).folder == run / "evaluation"


def test_held_out_data_that_is_nowhere_is_named_and_may_be_given(run, data, tmp_path):
    write_config(run, "gone", tasks=[], samples=4)
    write_atomically(run / "started.json", json.dumps({"folder": str(tmp_path)}))
    with pytest.raises(ValueError, match=r"data\.val: not found, neither .*gone.*data\.val=FOLDER"):
        evaluate(run, matrix=False)
    found = evaluate(run, [f"data.val={data}"], matrix=False)
    assert any("data.train" in note for note in found.evaluation.notes)


def test_two_evaluations_of_one_run_do_not_meet(run, data, tmp_path):
    write_config(run, data)
    (run / "evaluation").mkdir()
    entry = run / "evaluation" / ".fourm-lock-0"
    with open(entry, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(Busy, match=r"evaluation: .* is at work here"):
            evaluate(run)
    assert not (run / "evaluation" / "evaluation.json").exists()


def test_a_config_that_has_the_models_modalities_otherwise_is_refused(run, data, monkeypatch):
    write_config(run, data, samples=4, matrix_samples=4)
    monkeypatch.setattr("fourm_engine.recipes.evaluate.manager_of_run", lambda run: Host())
    config = yaml.safe_load((run / "config.yaml").read_text())
    for tokens, refused in ((4, False), (2, True)):
        config["modalities"] = {"settings": {"a": {"tokens": tokens}}}
        store(run / "config.yaml", config)
        if not refused:
            evaluate(run, matrix=False)
            continue
        with pytest.raises(
            ValueError, match=r"config\.yaml: .*modalities\.settings\.a\.tokens was 4, is 2; restore it"
        ):
            evaluate(run, matrix=False)


@pytest.mark.parametrize("option", ["features", "agreement"])
def test_a_network_that_is_not_there_is_told_before_the_model_is_read(run, data, tmp_path, monkeypatch, option):
    write_config(run, data)
    monkeypatch.setattr(FourM, "from_pretrained", lambda *args, **settings: pytest.fail("the model was read"))
    with pytest.raises(ValueError, match=r"inception: no such folder"):
        evaluate(run, **{option: str(tmp_path / "inception")})
    assert not (run / "evaluation").exists()


def test_predictions_are_measured_in_the_features_of_a_run_and_too_few_are_a_note(run, data):
    task = {"name": "all", "inputs": ["a"], "targets": ["b", "words"]}
    write_config(run, data, tasks=[task], samples=12, pictures=0, draws=2)
    found = evaluate(run, features=str(run), matrix=False).evaluation
    scores = {score.metric: score for score in found.tasks[0].scores["b"]}
    assert scores["Fréchet, run"].prediction > scores["Fréchet, run"].ceiling >= -1e-6
    assert [score.metric for score in found.tasks[0].scores["words"]] == ["exact"]
    # of distributions, not of the samples of one input
    assert [spread.metric for spread in found.tasks[0].diversity["b"].spreads] == ["accuracy"]
    few = evaluate(run, features=str(run), matrix=False, samples=4).evaluation
    assert "Fréchet, run" not in {score.metric for score in few.tasks[0].scores["b"]}
    assert any("b: Fréchet, run needs 10 samples and has" in note for note in few.notes)


def test_predictions_are_measured_in_features_where_a_modality_knows_how(run, data, model, monkeypatch):
    task = {"name": "all", "inputs": ["a"], "targets": ["b", "words"]}
    write_config(run, data, tasks=[task], samples=8, pictures=0)
    with pytest.raises(ValueError, match="--features: none of the targets b, words is measured in features"):
        evaluate(run, features="net", matrix=False)
    seen = []

    def distance(predictions, truths):
        seen.append((len(predictions), len(truths)))
        return 1.5

    labels = type(model.modalities["b"])
    monkeypatch.setattr(labels, "network_metrics", lambda self, name: (Metric(f"distance in {name}", distance, False),))
    scores = evaluate(run, features="net", matrix=False).evaluation.tasks[0].scores
    assert [(score.metric, score.prediction, score.ceiling) for score in scores["b"]][1] == (
        "distance in net",
        1.5,
        1.5,
    )
    assert [score.metric for score in scores["words"]] == ["exact"]
    assert len({count for pair in seen for count in pair}) == 1  # all samples at once

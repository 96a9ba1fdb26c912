"""What a sweep compares: numbers of runs and commands, ranks, error bars, pictures."""

from __future__ import annotations

import json

import pytest

from fourm_engine.sweep.config import Measure
from fourm_engine.sweep.folder import DONE, Outcome, SweepFolder
from fourm_engine.sweep.plots import draw_all, power_law
from fourm_engine.sweep.results import results_of, spread, table_of
from fourm_engine.sweep.trial import Trial
from fourm_engine.sweep.trial_metrics import read_metrics
from tests.recipes.test_runs import write

MEASURES = [
    ("eval", "last", 2.0),
    ("eval.a", "last", 2.0),
    ("eval.accuracy", "last", 0.5),
    ("loss", "last", 1.0),
    ("loss.a", "best", 1.0),
    ("pairs", "last", 3.0),
    ("pairs", "best", 2.0),
    ("pairs.b + c.a", "last", 4.0),
    ("result.tasks.top.1", "last", 0.75),
    ("result.tasks.none", "last", None),
    ("eval.absent", "last", None),
]


@pytest.mark.parametrize(("key", "at", "expected"), MEASURES)
def test_a_measure_is_read_from_what_a_run_or_a_command_left(tmp_path, key, at, expected):
    folder = write(tmp_path / "run")
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": 50, "pairs": {"b": {"a": 2.0}}}) + "\n")
        file.write(json.dumps({"step": 100, "pairs": {"b": {"a": 2.0}, "b + c": {"a": 4.0}}}) + "\n")
    (folder / "result.json").write_text(json.dumps({"tasks": {"top.1": 0.75, "none": None, "yes": True}}))
    assert read_metrics(folder, Measure(key=key, at=at)).value() == expected


def test_a_command_may_print_its_result(tmp_path):
    (tmp_path / "output.json").write_text('{"accuracy": 0.5}')
    assert read_metrics(tmp_path, Measure(key="result.accuracy")).value() == 0.5
    (tmp_path / "result.json").write_text("{")  # damaged
    assert read_metrics(tmp_path, Measure(key="result.accuracy")).value() == 0.5
    assert read_metrics(tmp_path / "absent", Measure(key="result.accuracy")).value() is None


def test_what_runs_measure_is_there_for_scaling_plots(tmp_path):
    folder = write(tmp_path / "run", record={"parameters": 1000, "state": "ended"})
    assert read_metrics(folder, Measure()).numbers == {"parameters": 1000, "steps": 100, "samples": 400, "seconds": 10}


def trial(folder, point, seed, losses, measure, *, parameters=1000):
    """A trial that is done, whose held-out `losses` fell to these."""
    one = Trial(f"trials/{'-'.join(map(str, point.values()))}-{seed}", point, seed, {"train": {}}, measure)
    run = folder.out / one.folder
    run.mkdir(parents=True)
    rows = [{"step": step, "loss": 1.0, "losses": dict.fromkeys(losses, 1.0)} for step in (5, 10)]
    rows += [{"step": s, "eval": {k: v * f for k, v in losses.items()}} for s, f in ((5, 2), (10, 1))]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "run.json").write_text(json.dumps({"format": 1, "state": "ended", "parameters": parameters}))
    folder.record(one, Outcome(DONE))
    return one


@pytest.fixture
def folder(tmp_path):
    return SweepFolder(tmp_path / "out", tmp_path / "sweep.yaml")


def test_ranks_follow_the_goal_and_points_without_all_seeds_come_last(folder):
    for goal, order in (("min", ["low", "high", "half"]), ("max", ["high", "low", "half"])):
        measure = Measure(goal=goal)
        folder.out = folder.out.with_name(goal)
        trials = [
            trial(folder, {"k": name}, seed, {"a": value}, measure)
            for name, values in {"high": (3.0, 5.0), "low": (2.0, 2.0), "half": (1.0,)}.items()
            for seed, value in enumerate(values)
        ]
        trials.append(Trial("trials/half-1", {"k": "half"}, 1, {}, measure))
        report = results_of(trials, folder, measure)
        assert [group.point["k"] for group in report.ranked] == order
        assert report.best.point == {"k": order[0]}
        assert any("without all seeds" in note for note in report.notes)
    assert [spread(group) for group in report.ranked] == ["4 ± 1.4", "2 ± 0", "1"]
    columns, rows = table_of(report)
    assert columns[:4] == ["", "k", "eval (max)", "seeds"]
    assert rows[2] == ["3", "half", "1", "1/2", "10", "1 not trained yet"]


def test_trials_with_different_losses_are_compared_by_those_that_all_have(folder):
    measure = Measure()
    trials = [
        trial(folder, {"k": 1}, 0, {"a": 2.0, "b": 9.0}, measure),
        trial(folder, {"k": 2}, 0, {"a": 3.0}, measure),
    ]
    report = results_of(trials, folder, measure)
    assert [group.mean for group in report.groups] == [2.0, 3.0]
    assert report.over == ["a"]
    assert report.notes == ["trials have different held-out losses; eval is the mean of those that all have: a"]


def test_a_power_law_is_met_exactly_and_two_points_are_none():
    assert power_law([(x, 3 * x**-0.5) for x in (1.0, 10.0, 1000.0)]) == pytest.approx(-0.5)
    assert power_law([(1.0, 2.0), (2.0, 1.0), (2.0, 1.1)]) is None


def test_pictures_have_axes_and_error_bars_and_name_every_line(folder):
    measure = Measure()
    trials = [
        trial(folder, {"model.width": w, "task": task}, seed, {"a": loss / w + seed}, measure, parameters=100 * w)
        for w in (8, 16, 128)
        for task, loss in (("plain", 10.0), ("<$odd$>", 20.0))
        for seed in (0, 1)
    ]
    report = results_of(trials, folder, measure)
    written, empty = draw_all(report, folder.out, ["parameters"])
    assert empty == []
    assert [path.name for path in written] == ["curves.png", "by-width.png", "by-task.png", "scaling-parameters.png"]
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in written)
    texts = {path.stem: path.with_suffix(".svg").read_text() for path in written}
    assert all("mean ± one standard deviation over seeds" in text for text in texts.values())
    assert all("eval (lower is better)" in text and "&lt;$odd$&gt;" in text for text in texts.values())
    for stem, label in (("curves", "step"), ("by-width", "model.width"), ("scaling-parameters", "parameters")):
        assert f">{label}<" in texts[stem]
    assert "∝ x^-" in texts["scaling-parameters"]
    assert "width 128" in texts["curves"]


def test_without_any_number_no_picture_is_drawn(folder):
    report = results_of([Trial("trials/x", {"k": 1}, 0)], folder, Measure())
    assert draw_all(report, folder.out, ["parameters"]) == ([], [])
    assert not folder.out.exists()


def test_what_cannot_be_drawn_is_told_with_the_reason(folder):
    trials = [trial(folder, {"train.lr": lr}, 0, {"a": lr}, Measure(), parameters=100) for lr in (1.0, 2.0)]
    for one in trials:
        metrics = folder.out / one.folder / "metrics.jsonl"
        metrics.write_text(metrics.read_text().splitlines()[-1] + "\n")
    written, empty = draw_all(results_of(trials, folder, Measure()), folder.out, ["parameters"])
    assert [path.name for path in written] == ["by-lr.png"]
    assert empty == [
        "no picture of curves: no trial has two evaluations; lower train.eval_every",
        "no picture of scaling: fewer than two trials differ in parameters",
    ]


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("tasks.rgb → all.scores.depth.AbsRel.prediction", 0.2),
        ("tasks.rgb → all.scores.depth.v1.5.prediction", 0.7),  # a name with a dot
        ("tasks.boxes → rgb.scores.depth.AbsRel.prediction", 0.4),
        ("few_shot.10.mean", 0.5),
        ("rows.new.depth.after", 2.0),
        ("rows.new.after", None),  # two of them
        ("rows.new.depth", None),
        ("tasks.rgb → all.samples", 200),
        ("tasks.other.samples", None),
        ("odd.x", None),
    ],
)
def test_a_number_in_a_list_is_found_by_what_its_record_says(path, number, tmp_path):
    def task(name, error):
        scores = [{"metric": "AbsRel", "prediction": error}, {"metric": "v1.5", "prediction": 0.7}]
        return {"name": name, "samples": 200, "scores": {"depth": scores}}

    rows = [{"case": case, "modality": m, "after": 2.0} for case in ("known", "new") for m in ("depth", "normal")]
    document = {
        "tasks": [task("rgb → all", 0.2), task("boxes → rgb", 0.4)],
        "few_shot": [{"shots": 1, "mean": 0.3}, {"shots": 10, "mean": 0.5}],
        "rows": rows,
        "odd": [1, [2], {"x": [3]}],
    }
    (tmp_path / "result.json").write_text(json.dumps(document))
    assert read_metrics(tmp_path, Measure(key=f"result.{path}")).value() == number

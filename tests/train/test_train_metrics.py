import json

import pytest

from fourm_engine.train.metrics import Metrics, duration


def rows(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_resuming_removes_the_lines_of_later_steps_and_a_line_cut_short(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 3}\n{"step": 2, "loss": 2}\n{"step": 3, "lo')
    metrics = Metrics(tmp_path, step=1, steps=4)
    metrics.add(1.5, {"a": 6.0}, {"a": 4.0}, lr=0.1, norm=1.0, samples=2, tokens=0)
    metrics.line(2, skipped=0)
    metrics.close()
    assert [(row["step"], row["loss"]) for row in rows(tmp_path)] == [(1, 3), (2, 1.5)]


def test_losses_of_a_line_are_means_over_all_items_since_the_last(tmp_path, capsys):
    metrics = Metrics(tmp_path, step=0, steps=100)
    metrics.add(1.0, {"a": 6.0, "b": 0.0}, {"a": 2.0, "b": 0.0}, lr=0.1, norm=1.0, samples=8, tokens=80)
    metrics.add(3.0, {"a": 2.0, "b": 5.0}, {"a": 2.0, "b": 5.0}, lr=0.1, norm=1.0, samples=8, tokens=80)
    metrics.line(2, skipped=0)
    metrics.line(3, skipped=1)  # nothing was added: no line
    (row,) = rows(tmp_path)
    assert row["losses"] == {"a": 2.0, "b": 1.0}
    assert row["loss"] == 2.0
    assert row["tokens_per_s"] / row["samples_per_s"] == pytest.approx(10)
    printed = capsys.readouterr().out
    assert "step   2/100  loss 2  a 2  b 1" in printed
    assert printed.rstrip().endswith("left")


def test_numbers_that_are_not_finite_are_null(tmp_path):
    metrics = Metrics(tmp_path, step=0, steps=1)
    metrics.scores(1, {"x": float("nan"), "y": 2.0})
    assert rows(tmp_path) == [{"step": 1, "eval": {"x": None, "y": 2.0}}]


def test_only_the_first_process_writes(tmp_path, capsys):
    metrics = Metrics(tmp_path / "run", step=0, steps=1, active=False)
    metrics.add(1.0, {}, {}, lr=0.1, norm=1.0, samples=1, tokens=0)
    metrics.line(1, skipped=0)
    metrics.close()
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr().out == ""


def test_time_left_is_readable():
    assert [duration(s) for s in (5, 75, 4000)] == ["0:05", "1:15", "1:06:40"]


def test_the_last_evaluation_made_again_appears_once(tmp_path):
    for _ in range(2):
        metrics = Metrics(tmp_path, step=5, steps=5)
        metrics.scores(5, {"x": 1.0})
        metrics.close()
    assert rows(tmp_path) == [{"step": 5, "eval": {"x": 1.0}}]

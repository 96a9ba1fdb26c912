import sys

import pytest

from fourm_engine.train import console
from fourm_engine.train.console import print_lines
from fourm_engine.train.metrics import Metrics, duration
from tests.running import rows


def test_resuming_removes_the_lines_of_later_steps_and_a_line_cut_short(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 3}\n{"step": 2, "loss": 2}\n{"step": 3, "lo')
    metrics = Metrics(tmp_path, step=1, steps=4)
    metrics.add(1.5, {"a": 6.0}, {"a": 4.0}, lr=0.1, norm=1.0, samples=2, work=(0, 0))
    metrics.log(2, skipped=0)
    metrics.close()
    assert [(row["step"], row["loss"]) for row in rows(tmp_path)] == [(1, 3), (2, 1.5)]


def test_losses_of_a_line_are_means_over_all_items_since_the_last(tmp_path, capsys):
    metrics = Metrics(tmp_path, step=0, steps=100)
    metrics.add(1.0, {"a": 6.0, "b": 0.0}, {"a": 2.0, "b": 0.0}, lr=0.1, norm=1.0, samples=8, work=(80, 0))
    metrics.add(3.0, {"a": 2.0, "b": 5.0}, {"a": 2.0, "b": 5.0}, lr=0.1, norm=1.0, samples=8, work=(80, 0))
    metrics.log(2, skipped=0)
    metrics.log(3, skipped=1)  # nothing was added: no line
    (row,) = rows(tmp_path)
    assert row["losses"] == {"a": 2.0, "b": 1.0}
    assert row["loss"] == 2.0
    assert row["tokens_per_s"] / row["samples_per_s"] == pytest.approx(10)
    printed = capsys.readouterr().out
    first, *rest, last = printed.splitlines()
    assert first.startswith("step   2/100  loss 2  lr 0.1  gradient 1  ")
    assert " ".join([first, *rest]).endswith("left")
    assert last == "    a 2  b 1"


def test_numbers_that_are_not_finite_are_null(tmp_path):
    metrics = Metrics(tmp_path, step=0, steps=1)
    metrics.log_scores(1, {"x": float("nan"), "y": 2.0})
    assert rows(tmp_path) == [{"step": 1, "eval": {"x": None, "y": 2.0}}]


def test_only_the_first_process_writes(tmp_path, capsys):
    metrics = Metrics(tmp_path / "run", step=0, steps=1, active=False)
    metrics.add(1.0, {}, {}, lr=0.1, norm=1.0, samples=1, work=(0, 0))
    metrics.log(1, skipped=0)
    metrics.close()
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr().out == ""


def test_time_left_is_readable():
    assert [duration(s) for s in (5, 75, 4000)] == ["0:05", "1:15", "1:06:40"]


def test_the_last_evaluation_made_again_appears_once(tmp_path):
    for _ in range(2):
        metrics = Metrics(tmp_path, step=5, steps=5)
        metrics.log_scores(5, {"x": 1.0})
        metrics.close()
    assert rows(tmp_path) == [{"step": 5, "eval": {"x": 1.0}}]


def test_no_line_is_wider_than_80_columns_however_many_modalities_there_are(tmp_path, capsys):
    names = [f"modality_{index}@{'large' * index}" for index in range(30)]
    metrics = Metrics(tmp_path, step=0, steps=1_000_000, name="tokenizer of modality_with_a_long_name")
    metrics.start(12_345_678, "128 x NVIDIA H100 80GB HBM3 in a machine with a name that is longer than all others")
    for step in (1, 2):
        work = (1e9, 1e15)
        metrics.add(
            12.3456, dict.fromkeys(names, 8.0), dict.fromkeys(names, 3.0), lr=1e-4, norm=1.0, samples=9, work=work
        )
        metrics.show_progress(step)
    metrics.log(2, skipped=3, waited=1e9, memory=1.5)
    metrics.log_scores(2, dict.fromkeys(names, 8.0))
    printed = capsys.readouterr().out.splitlines()
    assert max(map(len, printed)) < 80
    assert all(any(f"{name} 2.67" in line for line in printed) for name in names[:8])
    assert rows(tmp_path)[0]["losses"].keys() == set(names)


def test_the_first_step_is_told_at_once_and_written_only_with_its_line(tmp_path, capsys):
    metrics = Metrics(tmp_path, step=0, steps=500, name="fourm")
    metrics.start(2_000, "CPU, 1 thread")
    for step in (1, 2):
        metrics.add(2.0, {"a": 6.0}, {"a": 3.0}, lr=0.1, norm=1.0, samples=2, work=(0, 0))
        metrics.show_progress(step)
    assert capsys.readouterr().out.splitlines() == [
        "fourm: 2 k parameters learn  steps 1 to 500  CPU, 1 thread",
        "fourm   1/500  loss 2  first step",
        "    a 2",
    ]
    assert rows(tmp_path) == []


def test_a_terminal_shows_a_bar_between_the_lines_and_a_file_does_not(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setattr(console, "BETWEEN", 0.0)
    metrics = Metrics(tmp_path, step=0, steps=4, name="fourm")
    for step in (1, 2):
        metrics.add(2.0, {"a": 6.0}, {"a": 3.0}, lr=0.1, norm=1.0, samples=2, work=(0, 0))
        metrics.show_progress(step)
    metrics.log(2, skipped=0)
    first, bar, line = capsys.readouterr().out.split("\r\033[K")
    assert first.startswith("fourm 1/4  loss 2  first step")
    assert bar.startswith("██████████░░░░░░░░░░ 2/4  fourm  loss 2  ")
    assert line.startswith("fourm 2/4  loss 2  ")


def test_utilisation_is_the_share_of_the_devices_flops(tmp_path):
    metrics = Metrics(tmp_path, step=0, steps=4, name="fourm")
    metrics.set_peak(1e15, "1 PFLOP/s")
    metrics.add(2.0, {}, {}, lr=0.1, norm=1.0, samples=2, work=(10, 3e9))
    metrics.log(1, skipped=0, memory=2.0)
    (row,) = rows(tmp_path)
    assert row["flops_per_s"] / row["samples_per_s"] == pytest.approx(3e9 / 2)
    assert row["mfu"] == pytest.approx(row["flops_per_s"] / 1e15, rel=1e-2, abs=1e-4)
    assert row["memory_gib"] == 2.0


def test_a_utilisation_above_one_is_not_told(tmp_path):
    """The peak was measured beside other work then, and is none."""
    metrics = Metrics(tmp_path, step=0, steps=4, name="fourm")
    metrics.set_peak(1.0, "1 FLOP/s")
    metrics.add(2.0, {}, {}, lr=0.1, norm=1.0, samples=2, work=(10, 3e9))
    metrics.log(1, skipped=0)
    assert rows(tmp_path)[0].keys() >= {"flops_per_s"}
    assert "mfu" not in rows(tmp_path)[0]


def test_lines_say_how_many_samples_and_seconds_they_cover_over_all_parts_of_a_run(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    for first, steps in ((0, 2), (2, 4)):
        metrics = Metrics(tmp_path, step=first, steps=4)
        for step in range(first + 1, steps + 1):
            now[0] += 10
            metrics.add(1.0, {}, {}, lr=0.1, norm=1.0, samples=8, work=(0, 0))
            metrics.log(step, skipped=0)
        metrics.close()
        now[0] += 1000  # stopped meanwhile
    seen = [(row["step"], row["samples"], row["seconds"], row["seconds_left"]) for row in rows(tmp_path)]
    assert seen == [(1, 8, 10, 30), (2, 16, 20, 20), (3, 24, 30, 10), (4, 32, 40, 0)]


def test_a_matrix_is_written_whole_and_told_by_the_best_input_of_each_target(tmp_path, capsys):
    metrics = Metrics(tmp_path, step=0, steps=9, name="fourm")
    metrics.log_pairs(5, {("nothing", "b"): 3.0, ("a", "b"): 2.0, ("a", "c"): float("nan")}, 75.0)
    assert rows(tmp_path) == [
        {"step": 5, "pairs": {"nothing": {"b": 3.0}, "a": {"b": 2.0, "c": None}}, "pairs_seconds": 75.0}
    ]
    assert capsys.readouterr().out == "fourm pairs, step 5, 1:15  a to b 2\n"


def test_a_run_goes_on_with_numbers_that_somebody_damaged(tmp_path):
    line = b'{"step": 1, "seconds": 2}\n'
    damaged = b"\xff\n" + b"[" * 100_000 + b'\n[]\n{"step": null}\n{"step": 9}\n{"step": 2'
    (tmp_path / "metrics.jsonl").write_bytes(line + damaged)
    Metrics(tmp_path, step=3, steps=9).close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == line


def test_a_log_on_a_full_disk_does_not_end_the_run(monkeypatch):
    full = open("/dev/full", "w")  # noqa: SIM115
    monkeypatch.setattr(sys, "stdout", full)
    print_lines(["a line"])
    print_lines(["x" * 100_000])
    with pytest.raises(OSError, match="No space"):
        full.close()


def test_an_evaluation_that_measured_nothing_says_nothing(tmp_path, capsys):
    Metrics(tmp_path, step=1, steps=9).log_scores(1, {})
    assert not capsys.readouterr().out

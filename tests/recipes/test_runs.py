"""Runs by what is in their folders: whole, half-written, of another format, or none."""

import json
import os
import subprocess

import pytest
from typer.testing import CliRunner

from fourm_engine.cli.runs import app
from fourm_engine.recipes.compare_runs import compare_runs, plot_runs
from fourm_engine.recipes.config import CONFIG
from fourm_engine.recipes.runs import CONFIG as SAME_CONFIG
from fourm_engine.recipes.runs import find_runs, matrix_of, open_run
from fourm_engine.train.run_record import NAME
from tests.running import fourm, rows

CONFIGS = {
    "train": {"batch_size": 4, "lr": 0.1, "optimiser": "adamw"},
    "masking": {"mixture": [{"name": "all", "weight": 1}]},
}


def write(folder, *, lr=0.1, factor=1.0, record=None, seconds=1.0, lines=10, config=True):
    """A run of `lines` lines, ten steps and `seconds` seconds each; held-out losses at every fifth."""
    folder.mkdir(parents=True)
    rows = []
    for number in range(1, lines + 1):
        loss = factor * 10 / number
        row = {"step": 10 * number, "loss": loss, "losses": {"a": loss}, "samples_per_s": 40 / seconds}
        rows.append({**row, "samples": 40 * number, "seconds": seconds * number})
        if number % 5 == 0:
            rows.append({"step": 10 * number, "eval": {"a": loss + 1, "accuracy": 0.5}})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if config:
        train = CONFIGS["train"] | {"lr": lr}
        (folder / "config.yaml").write_text(json.dumps(CONFIGS | {"run": str(folder), "train": train}))
    if record is not None:
        facts = {"format": 1, "what": "fourm", "steps": 100, "engine": "0.1", "device": "CPU, 1 thread", "error": ""}
        (folder / NAME).write_text(json.dumps(facts | record))
    return folder


def test_the_names_of_a_runs_files_are_those_that_training_writes():
    assert SAME_CONFIG == CONFIG


def test_a_row_tells_state_losses_speed_and_time(tmp_path):
    write(tmp_path / "runs" / "one", record={"state": "failed", "error": "lost", "step": 103})
    (run,) = find_runs([tmp_path / "runs"])
    row = run.row()
    assert (row["what"], row["state"], row["step"], row["steps"], row["error"]) == ("fourm", "failed", 103, 100, "lost")
    assert (row["loss"], row["best_held_out"], row["best_step"]) == (1.0, 2.0, 100)  # accuracy is no loss
    assert (row["samples_per_s"], row["seconds"], row["samples"]) == (40.0, 10.0, 400.0)
    json.dumps(row)


def test_a_run_whose_process_is_gone_was_killed_and_one_of_another_machine_runs(tmp_path):
    from fourm_engine.lock import this_process

    gone = subprocess.Popen(["true"])
    gone.wait()
    here = this_process()
    alive = here | {"pid": os.getppid(), "started_tick": None}
    for name, process in (("gone", here | {"pid": gone.pid}), ("alive", alive), ("far", here | {"host": "elsewhere"})):
        write(tmp_path / name, record={"state": "running", **process})
    assert {run.folder.name: run.state for run in find_runs([tmp_path])} == {
        "gone": "killed",
        "alive": "running",
        "far": "running",
    }


def test_runs_are_found_below_folders_once_and_not_in_what_a_run_holds(tmp_path):
    for name in ("a", "deep/b", "deep/b/inside", "a/checkpoints/no", ".hidden"):
        write(tmp_path / name)
    found = find_runs([tmp_path, tmp_path / "a"])
    assert [str(run.folder.relative_to(tmp_path)) for run in found] == ["a", "deep/b", "deep/b/inside"]
    assert find_runs([tmp_path / "a" / "checkpoints"]) != []  # named outright
    (tmp_path / "empty").mkdir()
    assert find_runs([tmp_path / "empty"]) == []
    with pytest.raises(ValueError, match=r"absent: no such folder"):
        find_runs([tmp_path / "absent"])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"step": 10, "lo',
        b"\xff\xfe\n\x00",
        b"[1, 2]\n7\nnull\n" + b"[" * 9000,
        b'{"step": "ten", "loss": 1}\n{"step": true, "loss": 1}\n{"loss": 1}\n',
        b'{"step": 1, "loss": NaN, "losses": [1], "eval": "x", "pairs": 3}\n{"step": 2, "losses": {"a": null}}',
        b'{"step": 1, "loss": 1' + b"0" * 400 + b"}",
    ],
)
def test_what_is_no_line_of_ours_is_skipped(tmp_path, content):
    write(tmp_path / "run", lines=2)
    path = tmp_path / "run" / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + content)
    for name in ("config.yaml", NAME):
        (tmp_path / "run" / name).write_text("{: no")
    row = open_run(tmp_path / "run").row()
    assert row["loss"] == 5.0
    assert row["state"] == "unknown"
    assert row["seconds"] == 2.0
    json.dumps(row, allow_nan=False)


def test_lines_without_seconds_and_samples_are_completed_by_speed_and_batch(tmp_path):
    run = write(tmp_path / "run", lines=3)
    lines = rows(run)
    older = [{key: value for key, value in row.items() if key not in ("seconds", "samples")} for row in lines]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in older))
    row = open_run(run).row()
    assert (row["seconds"], row["samples"]) == (3.0, 120.0)


def test_two_runs_are_compared_after_equal_steps_samples_and_seconds(tmp_path):
    one, two = write(tmp_path / "one"), write(tmp_path / "two", lr=0.2, factor=2.0, seconds=4.0, lines=8)
    found = compare_runs([one, two])
    assert found.settings == {"train.lr": [0.1, 0.2]}
    step, losses = found.at["step"]
    assert (step, losses["loss"], losses["held out a"]) == (80, [1.25, 2.5], [3.0, 5.0])
    seconds, losses = found.at["seconds"]
    assert (seconds, losses["loss"]) == (10, [1.0, 10.0])  # two has taken 20 of its steps
    assert losses["held out a"] == [2.0, None]
    json.dumps(found.to_json())


def test_runs_with_the_same_settings_have_none_that_differ(tmp_path):
    assert compare_runs([write(tmp_path / "one"), write(tmp_path / "two")]).settings == {}


def test_comparing_one_run_or_a_folder_without_one_is_refused(tmp_path):
    one = write(tmp_path / "one")
    with pytest.raises(ValueError, match="at least two runs"):
        compare_runs([one])
    with pytest.raises(ValueError, match=r"holds no run: neither run\.json nor metrics\.jsonl"):
        compare_runs([one, tmp_path])


@pytest.mark.parametrize("kind", ["png", "svg", "pdf", "html"])
def test_curves_are_drawn_to_a_file_of_each_kind(tmp_path, kind):
    runs = [write(tmp_path / "one<b>"), write(tmp_path / "two $x$", factor=2.0)]
    out = tmp_path / f"curves.{kind}"
    assert plot_runs(runs, out, axis="seconds") == []
    content = out.read_bytes()
    if kind == "svg":
        assert all(f">{label}</text>".encode() in content for label in ("seconds of training", "loss"))
    assert content.startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF", "html": b"<!doctype html>"}[kind])
    if kind == "html":
        assert b"one<b>" not in content
        assert b"one&lt;b&gt;" in content


def test_what_cannot_be_drawn_is_said(tmp_path):
    one, empty = write(tmp_path / "one"), write(tmp_path / "empty", lines=0)
    assert plot_runs([one, empty], tmp_path / "c.png") == [f"{empty}: no line with step, left out"]
    for runs, out, axis, said in (
        ([one], "c.gif", "step", r"expected a name that ends in \.png"),
        ([one], "c.png", "days", "no axis 'days'; choose from step, samples, seconds"),
        ([empty], "c.png", "step", "no run has a curve yet"),
    ):
        with pytest.raises(ValueError, match=said):
            plot_runs(runs, tmp_path / out, axis=axis)


def test_the_last_matrix_of_a_run_is_found_or_that_of_a_step(tmp_path):
    run = write(tmp_path / "run")
    with pytest.raises(ValueError, match=r"train with train\.pairs_every"):
        matrix_of(run)
    with open(run / "metrics.jsonl", "a") as file:
        for step in (50, 100):
            file.write(json.dumps({"step": step, "pairs": {"a": {"b": step / 10, "c": None}}}) + "\n")
    assert matrix_of(run) == (100, {"a": {"b": 10.0}})
    assert matrix_of(run, 50) == (50, {"a": {"b": 5.0}})
    with pytest.raises(ValueError, match="no matrix at step 7; choose from 50, 100"):
        matrix_of(run, 7)


def test_numbers_beyond_all_bounds_are_not_those_of_a_run(tmp_path):
    huge = "1" + "0" * 400
    facts = f'{{"format": 1, "state": "ended", "steps": {huge}, "train": {{"batch_size": {huge}}}}}'
    (tmp_path / "run.json").write_text(facts)
    lines = [
        f'{{"step": {huge}, "loss": 1.0}}',
        '{"step": -1, "loss": 1.0}',
        '{"step": 2, "loss": 3.0, "samples_per_s": 1}',
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    row = open_run(tmp_path).row()
    assert (row["step"], row["steps"], row["loss"], row["samples"]) == (2, None, 3.0, None)


def test_what_others_wrote_of_a_run_commands_no_terminal(tmp_path):
    facts = {"format": 1, "state": "failed", "what": "x\x1b[31m", "error": "bad\x1b[2J"}
    (tmp_path / "run.json").write_text(json.dumps(facts))
    said = CliRunner().invoke(app, ["list", str(tmp_path)]).output
    assert "bad?[2J" in said
    assert "x?[31m" in said
    assert "\x1b" not in said


def test_a_row_says_which_step_was_exported_and_which_best_one_is_kept(tmp_path):
    folder = write(tmp_path / "one", record={"state": "ended", "step": 100})
    assert (open_run(folder).row()["exported_step"], open_run(folder).row()["kept_step"]) == (100, None)
    (folder / "best").mkdir()
    for text, kept in (('{"step": 50}', 50), ("[]", None), ("{", None), ('{"step": "x"}', None)):
        (folder / "best/best.json").write_text(text)
        assert open_run(folder).row()["kept_step"] == kept
    (folder / "best/best.json").write_text('{"step": 100, "measure": "held-out loss", "score": 2.0}')
    assert "2 (100, kept)" in " ".join(fourm("runs", tmp_path).split())

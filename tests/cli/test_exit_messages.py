"""How commands end: one look for all lines, exit codes that shells know, and what is kept after a signal."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from fourm_engine.cli import app, exit_messages, logs, main
from fourm_engine.cli.command_setup import ALONE
from fourm_engine.cli.commands import Commands
from fourm_engine.cli.exit_messages import KEPT, of_locale
from fourm_engine.recipes import edit_many, predict_many, runs
from fourm_engine.yaml_config import ConfigError


def names(command, above=""):
    """All commands, those of groups in two words."""
    for name, inner in command.commands.items():
        yield f"{above}{name}"
        if hasattr(inner, "commands"):
            yield from names(inner, f"{name} ")


def ended(monkeypatch, code, *words):
    """The exit code of `fourm words`, which ends with `code`."""
    monkeypatch.setattr(app, "app", lambda: sys.exit(code))
    monkeypatch.setattr(sys, "argv", ["fourm", *words])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code


def test_what_is_kept_is_told_of_commands_that_exist():
    assert set(KEPT) <= set(names(typer.main.get_command(app.app)))


@pytest.mark.parametrize(("code", "name"), [(130, "SIGINT"), (143, "SIGTERM"), (129, "SIGHUP"), (141, "SIGPIPE")])
def test_a_long_command_that_a_signal_ends_says_what_is_kept_and_how_to_go_on(monkeypatch, capsys, code, name):
    assert ended(monkeypatch, code, "tokenize", "c.yaml") == code
    line = f"fourm: stopped by {name}; finished shards are kept; run the same command again to continue\n"
    assert capsys.readouterr().err == line
    ended(monkeypatch, code, "tokenizer", "fit", "c.yaml")
    assert f"stopped by {name}; fitted tokenizers are kept" in capsys.readouterr().err
    for command in ("generate", "edit", "predict"):
        ended(monkeypatch, code, command)
        assert f"stopped by {name}; results that are finished are kept" in capsys.readouterr().err
    ended(monkeypatch, code, "runs")  # keeps nothing; and nobody reads a listing to its end
    assert capsys.readouterr().err == ("" if name == "SIGPIPE" else f"fourm: stopped by {name}\n")


def test_an_error_of_the_config_that_only_this_process_has_is_told(monkeypatch):
    job = {"MASTER_ADDR": "a", "MASTER_PORT": str(os.getpid()), "TORCHELASTIC_RUN_ID": "b"}
    for name, value in (job | {"RANK": "5", "LOCAL_RANK": "1"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(exit_messages, "HEAD_START", 0.3)
    error = ConfigError("c.yaml: train.stepz: unknown key")
    assert exit_messages.reported_elsewhere(error)  # the first has ended, with the same error
    first = subprocess.Popen(["sleep", "60"], env={**os.environ, "RANK": "4", "LOCAL_RANK": "0"})
    try:
        assert not exit_messages.reported_elsewhere(error)
    finally:
        first.kill()
        first.wait()


def test_commands_for_one_process_work_in_the_first_of_torchrun(monkeypatch, capsys):
    assert set(ALONE) <= set(names(typer.main.get_command(app.app)))
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(sys, "argv", ["fourm", "evaluate", "nowhere"])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    said = capsys.readouterr().err
    assert said == "rank 1 has nothing to do: fourm evaluate works in rank 0 (or unset RANK)\n"


def test_every_process_predicts_its_share_of_many_samples_and_the_first_a_single_one(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(predict_many, "predict_many", lambda *given, **options: calls.append(given))
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    runner = CliRunner()
    many = ["predict", "run", "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    assert runner.invoke(app.app, many).exit_code == 0
    assert len(calls) == 1
    single = runner.invoke(app.app, ["predict", "nowhere", "--input", "a=b"])
    assert single.exit_code == 0
    assert "rank 1 has nothing to do: fourm predict, without many samples, works in rank 0" in single.stderr


def test_every_process_edits_its_share_of_folders_and_the_first_a_single_sample(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(edit_many, "edit_many", lambda *given, **options: calls.append(given))
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    runner = CliRunner()
    edit = ["edit", "run", "--outpaint", "0.5", "--out", str(tmp_path / "out"), "--input"]
    assert runner.invoke(app.app, [*edit, f"a={tmp_path}"]).exit_code == 0
    assert len(calls) == 1
    single = runner.invoke(app.app, [*edit, "a=b"])
    assert single.exit_code == 0
    assert "rank 1 has nothing to do: fourm edit, without many samples, works in rank 0" in single.stderr


def test_ctrl_c_before_the_command_begins_leaves_no_traceback(monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(app, "app", interrupted)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 130


def test_only_the_first_process_tells_it(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    assert ended(monkeypatch, 143, "tokenize", "c.yaml") == 143
    assert capsys.readouterr().err == ""


def test_ctrl_c_within_a_command_is_exit_code_130(monkeypatch):
    def interrupted(folders):
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "find_runs", interrupted)
    assert CliRunner().invoke(app.app, ["runs"]).exit_code == 130


def refuse():
    raise typer.Abort


@pytest.mark.parametrize(
    ("does", "code", "output"), [(lambda: 3, 0, ""), (refuse, 1, "fourm: error: aborted\n")], ids=["number", "refusal"]
)
def test_a_number_that_a_command_returns_is_no_exit_code_and_a_refusal_no_traceback(does, code, output):
    app = typer.Typer(cls=Commands)
    app.command("ask")(does)
    app.command("other")(refuse)
    done = CliRunner().invoke(app, ["ask"])
    assert (done.exit_code, done.output) == (code, output)


def test_an_output_that_nobody_reads_ends_a_listing_without_a_word(tmp_path):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "fourm_engine.cli", "runs", tmp_path], stdout=write, stderr=subprocess.PIPE, check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["train"], "missing argument 'CONFIG'; see fourm train --help"),
        (["train", "c.yaml", "--dryrun"], "no such option: --dryrun; did you mean --dry-run?"),
        (
            ["train", "c.yaml", "--steps", "100"],
            "no such option: --steps; settings of the config are given as KEY=VALUE: train.steps=…"
            " or tokenizers.fit.steps=…",
        ),
        (
            ["tokenizer", "fit", "c.yaml", "--batch-size=8"],
            "no such option: --batch-size; settings of the config are given as KEY=VALUE: tokenizers.fit.batch_size=…"
            " or tokenizers.fit.adapt.batch_size=…",
        ),
        (["trian"], "no such command 'trian'; did you mean 'train'?"),
        (["runs", "plot", "a"], "missing option '--out'; see fourm runs plot --help"),
        (["train", "c.yaml", "--mfu", "x"], "invalid value for '--mfu': must be a number; see fourm train --help"),
    ],
)
def test_a_command_line_that_is_not_understood_is_one_line_like_every_error(words, line):
    done = CliRunner().invoke(app.app, words, prog_name="fourm")
    assert (done.exit_code, done.output) == (2, f"fourm: error: {line}\n")


def test_the_list_of_commands_is_brief_and_says_where_to_start(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    shown = CliRunner().invoke(app.app, ["--help"]).output
    assert "start with: fourm init FOLDER" in shown
    assert "Train an any-to-any model. " in shown
    assert "Resumes" not in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_lines_have_one_look_and_only_warnings_are_marked():
    lines = [
        logs.Plain().format(logging.LogRecord("x", level, "", 0, "%s threads", (2,), None))
        for level in (logging.INFO, logging.WARNING, logging.ERROR)
    ]
    assert lines == ["2 threads", "fourm: warning: 2 threads", "fourm: error: 2 threads"]


def test_ctrl_c_while_the_commands_are_imported_is_one_line(tmp_path):
    (tmp_path / "typer.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(600)\n")
    started = subprocess.Popen(
        [sys.executable, "-c", "from fourm_engine.cli import main; main()"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    started.stdout.readline()
    started.send_signal(signal.SIGINT)
    assert started.communicate(timeout=60) == ("", "fourm: stopped by SIGINT\n")
    assert started.returncode == 130


REMEDY = "the locale's encoding is ascii; set LC_ALL=C.UTF-8, or PYTHONUTF8=1"


def test_a_locale_that_is_not_utf8_is_named_where_a_name_on_the_command_line_is_no_text(tmp_path):
    (tmp_path / "config.yaml").write_text("run: runs/one\n", encoding="utf-8")
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "fourm_engine.cli", "train", "config.yaml", "run=runs/café"]
    ended = subprocess.run(command, env={**os.environ, **plain}, capture_output=True, text=True, cwd=tmp_path)
    (line,) = ended.stderr.splitlines()
    assert line.startswith("fourm: error: override 'run=runs/caf")
    assert line.endswith(REMEDY)
    assert ended.returncode == 1


def test_a_name_that_the_locale_cannot_write_is_told_with_the_remedy(monkeypatch):
    error = UnicodeEncodeError("ascii", "runs/café", 8, 9, "ordinal not in range(128)")
    assert of_locale(error, str(error)) == str(error)
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    assert of_locale(error, str(error)) == f"'runs/caf\\xe9': cannot be the name of a file: {REMEDY}"
    assert of_locale(ValueError("x"), "model.width: below 1") == "model.width: below 1"

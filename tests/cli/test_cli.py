"""The command line: one clear line and exit code 1 for a user's mistake; listing imports nothing heavy."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import fourm_engine
from fourm_engine.cli import app, logs, main
from fourm_engine.cli.app import DATA, PACKAGES, TRAINING, USING
from fourm_engine.cli.commands import BUILT_IN
from fourm_plugins.notes import ALONE

COMMANDS = ("plugins", "tokenizer", "label", "tokenize", "train", "extend")
COMMANDS += ("generate", "edit", "embed", "search", "evaluate")


def fourm(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    import os

    return subprocess.run(
        [sys.executable, "-m", "fourm_engine.cli", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )


def test_every_command_of_the_readme_is_there():
    shown = fourm("--help").stdout
    assert all(command in shown for command in COMMANDS)


def test_the_seven_distributions_are_listed_with_their_state():
    found = {p["name"]: p for p in json.loads(fourm("plugins", "list", "--json").stdout) if p["kind"] == "modality"}
    assert {p["distribution"] for p in found.values()} >= {
        f"fourm-{name}" for name in ("rgb", "depth", "normal", "semseg", "boxes", "caption", "clip")
    }
    assert {"rgb", "rgb@pixels"} <= set(found)
    assert {p["state"] for p in found.values()} == {"ok"}


def test_listing_shows_what_the_environment_disables_and_strict_fails_on_it():
    listed = fourm("plugins", "list", "--json", "--strict", FOURM_DISABLE="depth")
    assert listed.returncode == 1
    assert {p["state"] for p in json.loads(listed.stdout) if p["name"] == "depth"} == {"disabled"}


def test_listing_imports_neither_torch_nor_a_plugin():
    code = (
        "import sys\nfrom fourm_engine.cli.app import app\n"
        "try: app(['plugins', 'list'])\nexcept SystemExit: pass\n"
        "assert not {'torch', 'fourm_rgb', 'transformers', 'matplotlib'} & set(sys.modules), 'heavy import'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "nowhere.yaml"), "nowhere.yaml: no such config file"),
        (("tokenize", "nowhere.yaml"), "nowhere.yaml: no such config file"),
        (("tokenizer", "fit", "nowhere.yaml"), "nowhere.yaml: no such config file"),
        (("label", "nowhere.yaml", "--from", "a", "--to", "b"), "nowhere.yaml: no such config file"),
        (("train", "https://user:secret@host/x"), "https://…: a config is a local file; download it"),
    ],
)
def test_an_error_is_one_line_without_a_traceback(arguments, message):
    failed = fourm(*arguments)
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1] == f"fourm: error: {message}"
    assert "Traceback" not in failed.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["doctor"], "no such command 'doctor'; there is `fourm plugins doctor`"),
        (["check", "photos"], "there is `fourm plugins check` and `fourm data check`"),
        (["generate", "run", "--steps", "x"], "'--steps': must be an integer"),
        (["export", "run", "--format", "tf"], "'--format': 'tf' is not one of 'onnx', 'torch'"),
    ],
)
def test_a_wrong_command_or_value_is_told_in_a_users_words(monkeypatch, words, says):
    monkeypatch.setenv("COLUMNS", "200")
    done = CliRunner().invoke(app.app, words)
    assert done.exit_code == 2
    assert says in done.output


def test_the_version_and_short_help_are_where_one_looks_for_them():
    assert CliRunner().invoke(app.app, ["--version"]).output == f"fourm-engine {fourm_engine.__version__}\n"
    for words in ([], ["generate"], ["runs"]):
        assert "Usage: " in CliRunner().invoke(app.app, [*words, "-h"]).output


def test_a_plugin_that_breaks_is_one_line_too(monkeypatch, capsys):
    def broken():
        raise ValueError("modality 'boom' cannot be activated\nTraceback (most recent call last):\n  File ...\n")

    monkeypatch.setattr(app, "app", broken)
    with pytest.raises(SystemExit):
        main()
    said = "fourm: error: modality 'boom' cannot be activated (FOURM_TRACEBACK=1 shows where)"
    assert capsys.readouterr().err.splitlines()[-1:] == [said]


def test_a_warning_is_told_once_and_every_note(capsys):
    handler, log = logging.StreamHandler(sys.stderr), logging.Logger("told")
    handler.addFilter(logs.Once())
    log.addHandler(handler)
    for _ in range(2):
        log.warning("%s is missing", "depth")
        log.warning("rgb is missing")
        log.info("a step")
    assert capsys.readouterr().err.splitlines() == ["depth is missing", "rgb is missing", "a step", "a step"]


def test_of_several_processes_the_first_tells_except_for_what_one_has_met_alone(capsys, monkeypatch):
    handler, log = logging.StreamHandler(sys.stderr), logging.Logger("told")
    handler.addFilter(logs.Once())
    log.addHandler(handler)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in "0", "1":
        monkeypatch.setenv("RANK", rank)
        log.warning("depth is missing")
        log.info("made anew")
        log.warning("skipped a file of process %s", rank, extra=ALONE)
        log.error("error of process %s", rank)
    assert capsys.readouterr().err.splitlines() == [
        *("depth is missing", "made anew", "skipped a file of process 0", "error of process 0"),
        *("skipped a file of process 1", "error of process 1"),
    ]


def test_the_help_shows_every_built_in_command_in_a_group():
    panels = {c.name: c.rich_help_panel for c in get_command(app.app).commands.values()}
    assert set(panels) == set(BUILT_IN)
    assert set(panels.values()) == {DATA, TRAINING, USING, PACKAGES}


@pytest.mark.parametrize("command", ["train", "generate", "data check", "tokenizer fit", "plugins new"])
def test_a_help_page_names_each_value_in_one_word_and_flags_have_none(command):
    page = CliRunner().invoke(app.app, [*command.split(), "--help"]).output
    assert "Show this message" in page
    assert not [kind for kind in ("<bool>", "<int", "<str>", "<path>", "<list", "<float") if kind in page]

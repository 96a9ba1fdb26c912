"""Recipes as a Python user calls them: a config in, files and reports out, lines to a callable."""

from __future__ import annotations

import sys

import pytest

from fourm_engine.recipes.config import load_config
from fourm_engine.recipes.fit import fit
from fourm_engine.recipes.label import label
from fourm_engine.recipes.tokenize import tokenize
from fourm_engine.recipes.train import train
from tests.configs import GRID, small, store
from tests.folders import write_examples
from tests.running import silent


@pytest.fixture
def config(tmp_path):
    write_pictures(tmp_path / "data")
    return config_in(tmp_path)


def write_pictures(data):
    """Six pictures, one of which cannot be read, and their depth."""
    for name in ("rgb", "depth"):
        write_examples(data / name, name, 6)
    (data / "rgb/5.png").write_bytes(b"no picture")


def config_in(folder):
    raw = small(folder, {"rgb": GRID, "depth": GRID}, data={"tokens": str(folder / "tokens")})
    return load_config(store(folder / "config.yaml", raw))


def test_fit_and_tokenize_return_reports_and_a_callable_takes_their_lines(config, capfd, monkeypatch):
    monkeypatch.setattr("fourm_engine.data.bad_files.MAX_WARNINGS", 0)  # no file is named when it is met
    told, warned = list[str](), list[str]()
    (report,) = fit(config, spaces=["rgb"], print_fn=told.append)
    assert (report.space, report.fresh, report.left_out) == ("rgb", True, {"rgb": 1})
    assert told == report.lines()
    assert [report.fresh for report in fit(config, print_fn=told.append)] == [True, False]  # depth, rgb

    reports = tokenize(config, print_fn=told.append, warn=warned.append)
    assert reports["train"].counts == {"depth": 6, "rgb": 5}
    assert len(warned) == 1
    assert "5.png" in warned[0]
    assert not {*told, *warned} & set(capfd.readouterr().out.splitlines())


def test_each_command_says_that_lists_are_not_used_as_it_starts(config, tmp_path, monkeypatch, caplog):
    (tmp_path / "data/splits.json").write_text('{"train": ["0", "1"]}')
    for command in (fit, tokenize, train):
        monkeypatch.setattr("fourm_engine.data.raw.names._said", set())  # as in another process
        caplog.clear()
        command(config, print_fn=silent)
        assert sum("splits.json is not used: data.train_split is not set" in line for line in caplog.messages) == 1


def test_several_jobs_get_the_config_as_it_was_resolved(config, tmp_path, monkeypatch):
    script = tmp_path / "program"
    script.write_text(
        f'#!/bin/sh\nfor space; do :; done\ncp "$5" "{tmp_path}/$space.yaml"\necho "$*" > "{tmp_path}/$space"\n'
    )
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    changed = config.model_copy(update={"seed": 7})
    assert fit(changed, jobs=2, refit=True) == []
    for space in ("depth", "rgb"):
        assert load_config(tmp_path / f"{space}.yaml") == changed
        assert (tmp_path / space).read_text().endswith(f"--refit --space {space}\n")


def test_labelling_needs_a_folder_of_data(config):
    nothing = config.model_copy(update={"data": config.data.model_copy(update={"train": None})})
    with pytest.raises(ValueError, match=r"data\.train is not set: name the folder to label"):
        label(nothing, "depth", [])

"""A run that is used from elsewhere, or was moved, finds its data or says where it looked."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import pytest
import yaml

from fourm_engine import exported
from fourm_engine.files import write_atomically
from fourm_engine.recipes.config import RunConfig, load_config
from fourm_engine.recipes.extend import extension_config
from fourm_engine.yaml_config import ConfigError

DATA = ("train", "val", "tokens")
CONFIG = {
    "run": "runs/mine",
    "data": {name: f"data/{name}" for name in DATA},
    "tokenizers": {"folder": "tokenizers"},
    "masking": {"input_tokens": 8, "target_tokens": 8},
    "model": {"width": 16, "encoder_blocks": 1, "decoder_blocks": 1, "heads": 2},
    "train": {"batch_size": 4, "steps": 10, "lr": 1e-3},
}


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A project whose run was started in its folder; the working directory is another, which has data of its own."""
    project, other = tmp_path / "project", tmp_path / "other"
    for name in (*DATA, "../tokenizers"):
        (project / "data" / name).mkdir(parents=True)
    (other / "data" / "val").mkdir(parents=True)
    monkeypatch.chdir(project)
    RunConfig.model_validate(CONFIG).store()
    monkeypatch.chdir(other)
    return project


def same(config: RunConfig, project: Path) -> bool:
    folders = {getattr(config.data, name).resolve() for name in DATA} | {config.tokenizers.folder.resolve()}
    return folders == {project / "data" / name for name in DATA} | {project / "tokenizers"}


def test_from_another_folder_the_run_finds_its_own_data_and_says_so(project, caplog):
    caplog.set_level(logging.INFO)
    config = load_config("../project/runs/mine/config.yaml")
    assert config.run.resolve() == project / "runs/mine"
    assert same(config, project)
    assert f"data.val is {project / 'data/val'}" in caplog.text


def test_where_it_was_started_nothing_changes(project, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.chdir(project)
    assert load_config("runs/mine/config.yaml") == RunConfig.model_validate(CONFIG)
    assert not caplog.text


def test_a_run_moved_without_its_data_finds_it_where_it_was_started(project, tmp_path):
    (project / "runs/mine").rename(tmp_path / "moved")
    config = load_config(tmp_path / "moved/config.yaml")
    assert config.run == tmp_path / "moved"
    assert same(config, project)


@pytest.mark.parametrize("absolute", [False, True])
def test_a_run_moved_with_its_data_finds_it_beside_itself(project, tmp_path, monkeypatch, absolute):
    if absolute:
        monkeypatch.chdir(project)
        paths = {"data": {name: str(project / f"data/{name}") for name in DATA}}
        RunConfig.model_validate({**CONFIG, **paths, "tokenizers": {"folder": str(project / "tokenizers")}}).store()
        monkeypatch.chdir(tmp_path / "other")
    project.rename(tmp_path / "renamed")
    assert same(load_config(tmp_path / "renamed/runs/mine/config.yaml"), tmp_path / "renamed")


def test_a_run_copied_with_its_data_reads_the_copy_and_without_it_the_original(project, tmp_path):
    shutil.copytree(project, tmp_path / "copy")
    assert same(load_config(tmp_path / "copy/runs/mine/config.yaml"), tmp_path / "copy")
    shutil.copytree(project / "runs", tmp_path / "alone/runs")
    assert same(load_config(tmp_path / "alone/runs/mine/config.yaml"), project)


def test_data_that_is_nowhere_is_named_with_all_places_and_the_remedy(project, tmp_path):
    (project / "data/train").rename(tmp_path / "away")
    path = project / "runs/mine/config.yaml"
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    words = str(caught.value)
    for place in (project / "data/train", project / "runs/mine/data/train", tmp_path / "other/data/train"):
        assert str(place) in words
    assert "data.train=FOLDER" in words
    assert "\n" not in words
    assert load_config(path, [f"data.train={tmp_path / 'away'}"]).data.train == tmp_path / "away"


def test_data_that_is_not_needed_is_left_out_with_a_warning(project, caplog):
    os.rmdir(project / "data/train")
    config = load_config(project / "runs/mine/config.yaml", needed=("data.val",))
    assert config.data.train is None
    assert "data.train: not found" in caplog.text


def test_the_paths_of_any_other_config_are_relative_to_the_working_directory(project):
    mine = project / "mine.yaml"
    mine.write_text((project / "runs/mine/config.yaml").read_text())
    config = load_config(mine)
    assert (config.run, config.data.val) == (Path("runs/mine"), Path("data/val"))


@pytest.mark.parametrize("content", ["", "[]", '{"folder": "relative"}', '{"folder": 3}', "[" * 20000])
def test_a_damaged_note_is_named(project, content):
    write_atomically(project / "runs/mine/started.json", content)
    with pytest.raises(ValueError, match=r"started\.json: says where the run was started"):
        load_config(project / "runs/mine/config.yaml")


def test_an_extension_finds_the_data_of_the_run_it_extends(project, monkeypatch):
    class Saved:
        model = RunConfig.model_validate(CONFIG).model
        modalities: dict = {}  # noqa: RUF012

    monkeypatch.setattr("fourm_engine.recipes.extend.find_model", lambda run: Path(run) / "model")
    monkeypatch.setattr(exported, "read_config", lambda folder: Saved)
    run = "../project/runs/mine"
    config = extension_config(run, [], add=["more"], train="rows", out=Path("new"), config=None)
    assert (config.run, config.extend.source) == (Path("new"), run)
    assert same(config, project)
    config.store()
    monkeypatch.chdir(project)
    again = load_config("../other/new/config.yaml")
    assert Path(again.extend.source).resolve() == project / "runs/mine"
    assert same(again, project)


def test_the_stored_config_is_yaml_with_the_paths_as_given(project):
    stored = yaml.safe_load((project / "runs/mine/config.yaml").read_text())
    assert (stored["run"], stored["data"]["val"]) == ("runs/mine", "data/val")

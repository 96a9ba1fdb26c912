"""Of a path that is not there every command says so; it proposes only what is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from fourm_engine.adapter import Adapter
from fourm_engine.tokenizers.store import load_tokenizer
from fourm_engine.yaml_config import ConfigError, read_yaml
from tests.grids import Host, features, map_spec
from tests.running import refused


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    (tmp_path / "runs/tiny").mkdir(parents=True)
    (tmp_path / "config.yaml").write_text("run: runs/tiny\n")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "words",
    [
        ("evaluate", "NAME"),
        ("evaluate", "NAME", "--data", "runs"),
        ("search", "NAME", "--evaluate", "NAME"),
        ("predict", "NAME", "--input", "rgb=a.png"),
        ("plugins", "info", "rgb", "--run", "NAME"),
        ("data", "check", "NAME"),
        ("runs", "NAME"),
        ("generate", "NAME", "--input", "caption=a", "--out", "out"),
    ],
)
def test_an_absent_folder_is_said_to_be_absent(words):
    def said(name):
        return refused(*(name if word == "NAME" else word for word in words))

    assert said("nowhere").startswith("nowhere: no such folder")
    assert said("runs/tony") == "runs/tony: no such folder; did you mean runs/tiny?"
    assert said("runs/tony/model") == "runs/tony/model: no such folder; did you mean runs/tiny?"


def test_an_absent_config_is_told_with_the_one_that_is_meant():
    assert refused("train", "confg.yml") == "confg.yml: no such config file; did you mean config.yaml?"
    assert refused("train", "runs/config.yaml") == "runs/config.yaml: no such config file"


def test_an_absent_folder_of_an_adapter_or_of_tokenizers_is_said_to_be_absent(tmp_path):
    with pytest.raises(ValueError, match=r"^runs/tony: no such folder; did you mean runs/tiny\?$"):
        Adapter("runs/tony")
    with pytest.raises(ValueError, match=r"^runs/tiny: no adapter: adapter\.json is missing"):
        Adapter("runs/tiny")
    folder = tmp_path / "tokenizers"
    with pytest.raises(ValueError, match=f"no fitted tokenizer for map, there is no folder {folder}; run"):
        load_tokenizer(folder / "map", [map_spec(features())], Host())


@pytest.fixture
def trained(tmp_path):
    """A finished run with its config, and the config of another that has not begun, beside its data."""
    (tmp_path / "runs/tiny/model").mkdir()
    (tmp_path / "runs/tiny/config.yaml").write_text("run: runs/tiny\n")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos.yaml").write_text("run: runs/photos\n")
    (tmp_path / "notes.txt").write_text("")


CONFIG_WANTED = [("train",), ("tokenize",), ("tokenizer", "fit"), ("tokenizer", "eval"), ("finetune",), ("sweep",)]
RUN_WANTED = [
    ("generate", "NAME", "--target", "a", "--out", "out"),
    ("edit", "NAME", "--input", "a=b", "--change", "c=d", "--out", "out"),
    ("evaluate", "NAME"),
    ("extend", "NAME", "--add", "a"),
    ("embed", "NAME", "photos", "--input", "a", "--out", "out"),
    ("export", "NAME", "--input", "a", "--out", "out"),
    ("predict", "NAME", "--input", "a=b"),
    ("runs", "compare", "NAME"),
    ("runs", "pairs", "NAME"),
]


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize("words", CONFIG_WANTED)
@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        ("runs/tiny", "its config is runs/tiny/config.yaml"),
        ("runs/tiny/model", "its config is runs/tiny/config.yaml"),
        ("photos", "did you mean photos.yaml?"),
        ("runs", "name a YAML config; `fourm init FOLDER` writes one for a folder of data"),
    ],
)
def test_a_folder_in_place_of_a_config_is_told_with_the_config(words, given, remedy):
    assert refused(*words, given) == f"{given}: is a folder; {remedy}"


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize("words", RUN_WANTED, ids=" ".join)
@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("config.yaml", "is a config; its run is runs/tiny"),
        ("runs/tiny/config.yaml", "is a file; did you mean the run runs/tiny?"),
        (
            "photos.yaml",
            "is a config, and its run runs/photos is not there yet; run `fourm train photos.yaml` first",
        ),
        ("notes.txt", "is a file; name the folder of a run or an exported model"),
    ],
)
def test_a_file_in_place_of_a_run_is_told_with_the_run(words, given, says):
    assert refused(*(given if word == "NAME" else word for word in words)) == f"{given}: {says}"


def test_the_config_of_a_folder_with_a_dot_in_its_name_is_found(tmp_path):
    (tmp_path / "photos.v1").mkdir()
    for name in ("photos.yaml", "photos.v1.yaml"):
        (tmp_path / name).touch()
    with pytest.raises(ConfigError, match=r"photos\.v1: is a folder; did you mean photos\.v1\.yaml\?"):
        read_yaml(Path("photos.v1"))

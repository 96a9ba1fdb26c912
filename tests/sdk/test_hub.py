"""A path and the id of a model on the Hub are told apart without asking the Hub."""

from pathlib import Path

import pytest

from fourm_engine.exported import locate
from fourm_plugins.hub import check_there, is_path


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    (tmp_path / "runs/demo").mkdir(parents=True)
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("the Hub was asked"))


@pytest.mark.parametrize(
    "source",
    [
        *("runs/dmeo", "models/any", "./runs", "../runs", "/nowhere", "~/model", "a/b/c", "a/"),
        *("org/model.safetensors", "tokens.d/x.json", Path("org/name"), "runs/demo", "runs"),
    ],
)
def test_what_looks_like_a_path_is_one(source):
    assert is_path(source)


@pytest.mark.parametrize("source", ["org/name", "EPFL-VILAB/4M-7_B_CC12M", "owner/v1.5-large", "resnet18"])
def test_what_may_be_on_the_hub_is_left_to_it(source):
    assert not is_path(source)
    check_there(source)


def test_a_path_that_is_absent_is_one_line_with_the_nearest_one_that_is_there(tmp_path):
    with pytest.raises(ValueError, match=r"^runs/dmeo: no such folder; did you mean runs/demo\?$"):
        locate("runs/dmeo")
    with pytest.raises(ValueError, match=r"^models/x: no such folder$"):
        locate("models/x")
    with pytest.raises(ValueError, match=r"^org/model\.safetensors: no such file; org is not there$"):
        locate("org/model.safetensors")


def test_a_url_is_no_model_and_its_password_is_not_told():
    with pytest.raises(ValueError, match=r"^https://…: no model is read from a URL; download it, or name its id"):
        locate("https://user:word@host.example/model")


def test_a_path_beside_the_config_is_named_as_it_is_written_from_here():
    with pytest.raises(ValueError, match=r"relative to where the command is typed: write runs/demo$"):
        check_there("demo", beside=Path("runs"))

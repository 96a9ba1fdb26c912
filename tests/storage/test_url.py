"""A setting that names a folder may be a URL, which stays what it is and never holds a secret."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from fourm_engine.data.config import DataConfig
from fourm_engine.recipes import started
from fourm_engine.recipes.config import load_config
from fourm_engine.storage.url import Url, parse, public
from fourm_engine.yaml_config import ConfigError

MINE = {
    "run": "run",
    "data": {"train": "s3://photos/train", "val": "https://host:8080/val/", "tokens": "hf://datasets/org/name/tokens"},
    "tokenizers": {"folder": "tokenizers"},
    "masking": {},
    "model": {"size": "Ti"},
    "train": {"batch_size": 8, "steps": 10, "lr": 1e-3},
}


def test_urls_in_a_config_keep_their_slashes_and_are_stored_and_read_again(tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(MINE))
    config = load_config(tmp_path / "config.yaml", ["data.remote.cache_gb=3"])
    assert config.data.train == "s3://photos/train"
    assert config.data.val == "https://host:8080/val"
    assert str(config.data.tokens / "train") == "hf://datasets/org/name/tokens/train"
    config.save(tmp_path / "stored.yaml")
    again = load_config(tmp_path / "stored.yaml")
    assert again == config
    assert isinstance(again.data.train, Url)
    assert pickle.loads(pickle.dumps(again)).data.train == "s3://photos/train"


def test_a_path_stays_a_path():
    config = DataConfig(train="data/train", val=Path("/data/val"))
    assert (config.train, config.val) == (Path("data/train"), Path("/data/val"))
    assert isinstance(parse("data/a:b"), Path)


def test_a_path_that_was_made_of_a_url_is_one_again():
    assert parse(Path("s3://photos/train")) == Url("s3://photos/train")


def test_below_a_url_names_are_quoted_for_the_web_alone():
    assert Url("https://host/a") / "b c/d#e" == "https://host/a/b%20c/d%23e"
    assert Url("s3://bucket/a") / "b c/d#e" == "s3://bucket/a/b c/d#e"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://host/data", "s3://, gs://, https://"),
        ("s3://", "no bucket"),
        ("s3://bucket/../other", "leads out"),
        ("https://me:hunter2@host/data", "in ~/.netrc"),
        ("https://host/data?X-Amz-Signature=hunter2", "in ~/.netrc"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_repeating_a_secret(tmp_path, url, message):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(MINE))
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(tmp_path / "config.yaml", [f"data.train={url}"])
    assert "data.train" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in public(url)


@pytest.mark.parametrize("key", ["run", "tokenizers.folder", "data.remote.cache"])
def test_a_folder_that_is_written_to_is_no_url(tmp_path, key):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(MINE))
    with pytest.raises(ConfigError, match=f"{key}: s3://bucket/x is no folder of this machine"):
        load_config(tmp_path / "config.yaml", [f"{key}=s3://bucket/x"])


def test_the_cache_is_by_default_in_the_users_cache(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    monkeypatch.setattr("sys.platform", "linux")
    assert DataConfig().remote.cache == Path("/somewhere/fourm")


@pytest.mark.parametrize(("key", "value"), [("cache_gb", -1), ("timeout_s", 0), ("give_up_s", -1), ("ahead", 1000)])
def test_settings_of_remote_data_are_bounded(key, value):
    with pytest.raises(ValidationError, match=key):
        DataConfig(remote={key: value})


def test_the_config_of_a_run_finds_remote_data_wherever_it_is_read_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    run.mkdir()
    started.record(run)
    (tmp_path / "tokenizers").mkdir()
    (run / "config.yaml").write_text(yaml.safe_dump(MINE))
    monkeypatch.chdir("/")
    config = load_config(run / "config.yaml", needed=("data.train", "data.val", "data.tokens", "tokenizers.folder"))
    assert config.data.train == "s3://photos/train"

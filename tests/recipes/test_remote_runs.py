"""Whole commands on data in a remote store."""

from __future__ import annotations

import sys

import pytest
import yaml

from fourm_engine import cli
from fourm_engine.data.config import DataConfig
from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.raw.catalogue import open_catalogue
from fourm_engine.data.raw.present import with_data
from fourm_engine.data.raw.root import DataRoot
from fourm_engine.installed.assets import check_assets
from fourm_engine.modalities import load_manager
from fourm_engine.recipes.fit import fit
from fourm_engine.recipes.label import label
from fourm_engine.recipes.tokenize import tokenize
from tests.data.test_remote import serve
from tests.recipes.test_recipes import config
from tests.storage.conftest import fast, web

__all__ = ["config", "fast", "web"]


@pytest.fixture
def remote(config, web, fast, tmp_path):
    """The config with its data and tokens at a URL."""
    fit(config, tell=lambda line: None)
    tokenize(config, tell=lambda line: None, warn=lambda line: None)
    specs = [modality.spec for modality in config.load_modalities(load_manager(config.modalities)).values()]
    open_catalogue(config.data.train, specs, index=True)
    serve(web, tmp_path)
    settings = {"cache": tmp_path / "cache", "timeout_s": 20, "give_up_s": 0.3}
    data = {"train": f"{web.url}/data", "tokens": f"{web.url}/tokens", "remote": settings}
    return config.model_copy(update={"data": DataConfig.model_validate(config.data.model_dump() | data)})


def fourm(monkeypatch, config, path, command, *overrides):
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    monkeypatch.setattr(sys, "argv", ["fourm", command, str(path), *overrides])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


def test_a_run_trains_on_remote_data_and_ends_with_one_line_where_the_store_stays_away(
    remote, web, tmp_path, monkeypatch, capsys
):
    assert not fourm(monkeypatch, remote, tmp_path / "remote.yaml", "train")
    assert (tmp_path / "run/model/config.json").is_file()
    assert "Traceback" not in capsys.readouterr().err

    gone = "tokens/train/rgb/shard-00000.safetensors"
    web.forever, web.faults[gone] = {gone}, ["503"]
    changes = [f"run={tmp_path / 'other'}", f"data.remote.cache={tmp_path / 'other-cache'}", "data.workers=1"]
    assert fourm(monkeypatch, remote, tmp_path / "remote.yaml", "train", *changes) == 1
    errors = capsys.readouterr().err
    last = errors.splitlines()[-1]
    assert last.startswith(f"fourm: error: {web.url}/{gone}: the store stayed away for ")
    assert "Traceback" not in errors


def test_commands_that_write_refuse_a_remote_folder(remote, config):
    with pytest.raises(ValueError, match=r"data\.tokens: http.*is only read from; tokenize into a local folder"):
        tokenize(remote)
    with pytest.raises(ValueError, match=r"data\.train: http.*is only read from; label a local copy"):
        label(remote, "rgb", ["depth"])


def test_remote_data_is_tokenized_into_a_local_folder(remote, tmp_path):
    local = remote.data.model_copy(update={"tokens": tmp_path / "mine"})
    reports = tokenize(remote.model_copy(update={"data": local}), tell=lambda line: None, warn=lambda line: None)
    assert reports["train"].counts == {"depth": 6, "rgb": 5}


def test_the_index_says_which_installed_modalities_have_remote_data(remote, config, web):
    manager = load_manager(config.modalities)
    installed = config.model_copy(update={"modalities": type(config.modalities)()}).load_modalities(manager)
    data = remote.data
    for folder in (data.train, data.tokens / "train"):
        assert set(with_data(installed, [DataRoot(data.at(folder), None)])) & {"rgb", "depth"} == {"rgb", "depth"}
    web.files = {}
    with pytest.raises(ValueError, match=f"no data of any installed modality in {web.url}/data"):
        with_data(installed, [DataRoot(data.at(data.train), None)])


def test_the_doctor_looks_at_remote_data(remote, web):
    manager = load_manager(remote.modalities)
    checks = {check.name: check for check in check_assets(remote, manager)}
    assert checks["data.train"].state == "ok"
    web.files = {}
    checks = {check.name: check for check in check_assets(remote, manager)}
    assert checks["data.train"].state == "bad"


def test_raw_data_at_a_url_is_described_by_it(remote, web):
    modalities = remote.load_modalities(load_manager(remote.modalities))
    assert f"{web.url}/data" in AlignedData.from_config(modalities, remote.data, training=True).describe()

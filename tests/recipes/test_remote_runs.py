"""Whole commands on data in a remote store."""

from __future__ import annotations

import shutil
import sys
import tarfile
from pathlib import Path

import pytest
import yaml

from fourm_engine.cli import main
from fourm_engine.data.config import DataConfig
from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.raw.available import with_data
from fourm_engine.data.raw.catalogue import open_catalogue
from fourm_engine.data.raw.root import DataRoot
from fourm_engine.installed.assets import check_assets
from fourm_engine.modalities import load_manager
from fourm_engine.recipes.config import load_config
from fourm_engine.recipes.fit import fit
from fourm_engine.recipes.label import label
from fourm_engine.recipes.tokenize import tokenize
from tests.configs import GRID, small, store
from tests.data.test_remote import serve
from tests.folders import write_examples
from tests.recipes.test_recipes import config_in, write_pictures
from tests.running import silent
from tests.storage.conftest import fast, web

__all__ = ["fast", "web"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder of data, tokenizers and tokens."""
    folder = tmp_path_factory.mktemp("prepared")
    write_pictures(folder / "data")
    config = config_in(folder)
    fit(config, print_fn=silent)
    tokenize(config, print_fn=silent, warn=silent)
    specs = [modality.spec for modality in config.load_modalities(load_manager(config.modalities)).values()]
    open_catalogue(config.data.train, specs, index=True)
    return folder


@pytest.fixture
def config(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)  # with the files' times
    return config_in(tmp_path)


@pytest.fixture
def remote(config, web, fast, tmp_path):
    """The config with its data and tokens at a URL."""
    serve(web, tmp_path)
    settings = {"cache": tmp_path / "cache", "timeout_s": 20, "give_up_s": 0.3}
    data = {"train": f"{web.url}/data", "tokens": f"{web.url}/tokens", "remote": settings}
    return config.model_copy(update={"data": DataConfig.model_validate(config.data.model_dump() | data)})


def fourm(monkeypatch, config, path, command, *overrides):
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    monkeypatch.setattr(sys, "argv", ["fourm", command, str(path), *overrides])
    with pytest.raises(SystemExit) as ended:
        main()
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


def test_commands_that_write_refuse_a_remote_folder(remote, web):
    with pytest.raises(ValueError, match=r"data\.tokens: http.*is only read from; tokenize into a local folder"):
        tokenize(remote)
    with pytest.raises(ValueError, match=r"data\.train: http.*is only read from; name a local .* labels: --out FOLDER"):
        label(remote, "rgb", ["depth"], models={"depth": "some/model"})
    with pytest.raises(ValueError, match=r"--out: http.*is only read from; name a local folder"):
        label(remote, "rgb", ["depth"], models={"depth": "some/model"}, out=Path("http://host/labels"))
    two = {"train": f"{web.url}/a/train", "val": f"{web.url}/b/train"}
    config = remote.model_copy(update={"data": DataConfig.model_validate(remote.data.model_dump() | two)})
    with pytest.raises(ValueError, match="--out labels: two data sets are called train; label one at a time"):
        label(config, "rgb", ["depth"], models={"depth": "some/model"}, out=Path("labels"))


@pytest.mark.parametrize("kind", ["files", "shards of one", "shards of all"])
def test_remote_data_is_labelled_into_a_local_folder_as_it_would_be_at_its_place(
    tmp_path, web, fast, kind, monkeypatch
):
    write_examples(tmp_path / "loose/depth", "depth", 5)
    data = tmp_path / "data"
    if kind == "files":
        shutil.copytree(tmp_path / "loose", data)
    else:
        shard = data / ("all-0.tar" if kind == "shards of all" else "depth/part/0.tar")
        shard.parent.mkdir(parents=True)
        with tarfile.open(shard, "w") as tar:
            for path in sorted((tmp_path / "loose/depth").iterdir()):
                tar.add(path, f"{path.stem}.depth.png" if kind == "shards of all" else path.name)
    settings = small(tmp_path, {"depth": GRID, "normal": GRID}, data={"train": str(data)})
    local = load_config(store(tmp_path / "local.yaml", settings))
    specs = [modality.spec for modality in local.load_modalities(load_manager(local.modalities)).values()]
    open_catalogue(data, specs, index=True)
    serve(web, tmp_path)
    remote = {"cache": str(tmp_path / "cache"), "timeout_s": 20, "give_up_s": 60}
    settings["data"] |= {"train": f"{web.url}/data", "remote": remote}
    out, path = tmp_path / "labels", tmp_path / "remote.yaml"
    store(path, settings)
    label(local, "depth", ["normal"], print_fn=silent)
    monkeypatch.setattr(sys, "argv", ["fourm", "label", str(path), "--from=depth", "--to=normal", f"--out={out}"])
    for _ in range(2):  # what is there is kept
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
    assert contents(out / "normal") == contents(data / "normal")
    assert len(contents(out)) == (5 if kind == "files" else 1)


def test_labels_of_remote_data_that_is_not_there_leave_no_record(tmp_path, web, fast):
    data = {"train": f"{web.url}/data", "remote": {"cache": str(tmp_path / "cache")}}
    config = load_config(store(tmp_path / "a.yaml", small(tmp_path, {"depth": GRID, "normal": GRID}, data=data)))
    with pytest.raises(ValueError, match="there is no index"):
        label(config, "depth", ["normal"], out=tmp_path / "labels")
    assert not (tmp_path / "labels").exists()


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("[!.]*") if path.is_file()}


def test_remote_data_is_tokenized_into_a_local_folder(remote, tmp_path):
    local = remote.data.model_copy(update={"tokens": tmp_path / "mine"})
    reports = tokenize(remote.model_copy(update={"data": local}), print_fn=silent, warn=silent)
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

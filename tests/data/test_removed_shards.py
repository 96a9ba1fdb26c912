"""Token files that were removed by hand: a line names the first, and `fourm tokenize` makes them again."""

from __future__ import annotations

import shutil

import pytest
from safetensors.numpy import load_file

from fourm_engine.data.checks.tokens import TokenCheck
from fourm_engine.data.config import DataConfig
from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.tokens.index import INDEX_FOLDER
from fourm_engine.data.tokens.indexing import open_index
from fourm_engine.data.tokens.tokenize import tokenize_split
from tests.data.training_data import MODALITIES, TOKENIZERS, open_data
from tests.fakes import sample_names, write_data

REMOVED = {
    "b/shard-00001.safetensors": "b/shard-00001.safetensors is missing; its samples are used without b; run `fourm",
    "b/*": "no tokens of b in {tokens}: tokenized whenever a sample is read, which is slow; run `fourm tokenize`",
    "_views/shard-00001.safetensors": "_views/shard-00001.safetensors is missing; its samples are left out; run",
    "*/shard-0000[01].safetensors": "2 shards are missing, such as {tokens}/_views/shard-00000.safetensors; their",
    "*/shard-00003.safetensors": "_views/shard-00003.safetensors is missing; its samples are left out; run `fourm",
    "_views/shard-00003.safetensors": "_views/shard-00003.safetensors is missing; its samples are left out; run",
}


@pytest.fixture
def config(tmp_path):
    config = DataConfig(train=tmp_path / "raw", tokens=tmp_path / "tokens", shard_size=3)
    write_data(tmp_path / "raw", MODALITIES, sample_names(12))
    tokenize(config)
    return config


def tokenize(config):
    return tokenize_split(AlignedData(config.train, MODALITIES), config.tokens / "train", TOKENIZERS, config)


def remove(config, pattern):
    for path in (config.tokens / "train").glob(pattern):
        path.unlink()


def warnings(caplog, config):
    caplog.clear()
    open_data(config)
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize(("pattern", "line"), REMOVED.items())
def test_a_removed_file_is_named_once_when_data_is_opened_and_made_again(config, caplog, pattern, line):
    folder = config.tokens / "train"
    whole = {path: load_file(path) for path in folder.rglob("*.safetensors")}
    assert warnings(caplog, config) == []
    remove(config, pattern)
    told = [text for text in warnings(caplog, config) if " missing" in text or "no tokens of" in text]
    assert len(told) == 1
    assert line.format(tokens=folder) in told[0]
    tokenize(config)
    assert warnings(caplog, config) == []
    again = {path: load_file(path) for path in folder.rglob("*.safetensors")}
    assert again.keys() == whole.keys()
    assert all((again[path][key] == whole[path][key]).all() for path in whole for key in whole[path])


def test_tokens_alone_of_which_shards_were_removed_are_told(config, caplog):
    shutil.rmtree(config.train)
    remove(config, "*/shard-00003.safetensors")
    assert any("_views/shard-00003.safetensors is missing" in text for text in warnings(caplog, config))
    remove(config, "*/shard-00001.safetensors")
    for _ in range(2):  # a gap is seen whenever data is opened
        assert any("_views/shard-00001.safetensors is missing" in text for text in warnings(caplog, config))


def test_a_modality_whose_files_are_gone_has_a_shard_for_samples_that_came_later(config, caplog):
    shutil.rmtree(config.train / "b")
    write_data(config.train, {"a": MODALITIES["a"]}, sample_names(2, start=50))
    tokenize(config)
    assert (config.tokens / "train/b/shard-00004.safetensors").is_file()
    assert not any("missing" in text for text in warnings(caplog, config))


def test_data_check_tells_them(config):
    remove(config, "b/shard-00002.safetensors")
    remove(config, "*/shard-00001.safetensors")
    shutil.rmtree(config.tokens / "train" / INDEX_FOLDER)
    found = [finding.message for finding in TokenCheck(config.tokens / "train", "train", MODALITIES, {}, {}).findings]
    folder = config.tokens / "train"
    assert f"train: {folder}/_views/shard-00001.safetensors is missing; its samples are left out" in found
    assert f"train: {folder}/b/shard-00002.safetensors is missing; its samples are used without b" in found


def test_an_emptied_file_is_damaged_not_missing(config):
    (config.tokens / "train/b/shard-00002.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"b/shard-00002\.safetensors: damaged, an empty file; remove it and run"):
        open_index(config.tokens / "train")

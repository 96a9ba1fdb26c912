"""`fourm data check` indexes tokens that were copied, says what they hold, and finds damage."""

from __future__ import annotations

import shutil

import pytest

from fourm_engine.cli.data import check
from fourm_engine.data.aligned import AlignedData
from fourm_engine.data.config import DataConfig
from fourm_engine.data.index import INDEX_FOLDER, Index
from fourm_engine.data.indexing import open_index
from fourm_engine.data.tokenize import tokenize_split
from tests.fakes import fake_modalities, fake_tokenizers, sample_names, write_data


@pytest.fixture
def tokens(tmp_path):
    modalities = fake_modalities(["a", "words"])
    write_data(tmp_path / "raw", modalities, {"a": sample_names(5), "words": sample_names(2)})
    data = AlignedData(tmp_path / "raw", modalities)
    tokenize_split(data, tmp_path / "tokens/train", fake_tokenizers(modalities), DataConfig(shard_size=3))
    return tmp_path / "tokens"


def test_copied_tokens_are_indexed_and_counted(tokens, capsys):
    shutil.rmtree(tokens / "train" / INDEX_FOLDER)
    check(tokens)
    said = capsys.readouterr().out
    assert "train: 5 samples in 2 shards; a 5, words 2; _index/ has " in said
    assert "all ids are those that were written" in said
    assert Index.load(tokens / "train") is not None


def test_damaged_ids_are_named(tokens):
    path = tokens / "train/a/shard-00001.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # within the ids or a digest, whichever comes last
    path.write_bytes(content)
    open_index(tokens / "train")
    with pytest.raises(ValueError, match=r"a/shard-00001\.safetensors: 1 samples, such as 000\d, hold other ids"):
        check(tokens)


def test_a_folder_without_tokens_is_named(tokens):
    shutil.rmtree(tokens / "train")
    with pytest.raises(
        ValueError, match=r"tokens: holds no tokens, nor do train/ and val/ in it; run"
    ):
        check(tokens)

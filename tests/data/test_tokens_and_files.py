"""Training reads tokens, raw files or both, and says where they do not match."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter

import numpy as np
import pytest

from fourm_engine.data.config import DataConfig
from fourm_engine.data.order import epoch_order
from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.samples import MaskedSamples
from fourm_engine.data.tokens.tokenize import tokenize_split
from fourm_engine.masking.config import Component, MaskingConfig
from tests.data.training_data import MASKING, MODALITIES, TOKENIZERS, VOCABULARY, config, one, open_data, write
from tests.fakes import LevelsTokenizer, fake_modalities, sample_names, write_data

__all__ = ["config"]


def test_on_the_fly_tokens_are_those_of_the_shards(config, tmp_path):
    (tmp_path / "train").mkdir()
    for part in ("_views", "a", "words"):
        (tmp_path / "train" / part).symlink_to(config.tokens / "train" / part)
    stored, live = open_data(config), open_data(config.model_copy(update={"tokens": tmp_path}))
    for view in range(2):
        assert (
            live.store.load(live.store.names.index("0004"), "b", view).tolist()
            == stored.store.load(stored.store.names.index("0004"), "b", view).tolist()
        )


def test_raw_data_alone_is_enough(config):
    data = open_data(config.model_copy(update={"tokens": None}))
    assert len({data[p].encoder.tobytes() for p in range(10)}) == 10
    again = open_data(config.model_copy(update={"tokens": None}))
    assert all((data[p].labels == again[p].labels).all() for p in range(25))


def test_kinds_of_tokens_and_raw_files_are_those_of_all_samples(config, tmp_path):
    shutil.copytree(config.tokens, tmp_path / "tokens")
    (tmp_path / "tokens/train/b/shard-00001.safetensors").unlink()
    lists = {"some": sample_names(7, start=6)}
    (config.train / "splits.json").write_text(json.dumps(lists))
    some = {"tokens": tmp_path / "tokens", "train_split": "some"}
    for changes in ({}, some, {"tokens": None}, {"train": None}):
        store = open_data(config.model_copy(update=changes)).store
        assert store.kinds() == Counter(store.has(row) for row in range(len(store)))
    (config.train / "splits.json").unlink()


def test_tokens_alone_are_enough(config):
    data = open_data(config.model_copy(update={"train": None}))
    assert len(data) == 20
    pixels = VOCABULARY["a@pixels"].index
    assert all((data[p].encoder[2] != pixels).all() for p in range(20))


def test_no_data_at_all_is_an_error():
    with pytest.raises(ValueError, match=r"data\.train and data\.tokens"):
        open_data(DataConfig())


def test_tokens_of_another_tokenizer_are_an_error(config):
    class Other(LevelsTokenizer):
        salt = "-refitted"

    tokenizers = {**TOKENIZERS, "a": Other([MODALITIES["a"].spec])}
    with pytest.raises(
        ValueError, match="made by tokenizer fake_levels, but the tokenizer of a is fake_levels-refitted"
    ):
        MaskedSamples.from_config(config, MASKING, MODALITIES, tokenizers, VOCABULARY, seed=0)


def test_tokens_made_through_other_views_are_an_error(tmp_path):
    config = write(tmp_path / "x", sample_names(4))
    other = write(tmp_path / "y", sample_names(4), augment=False)
    (other.tokens / "train/a/shard-00000.safetensors").write_bytes(
        (config.tokens / "train/a/shard-00000.safetensors").read_bytes()
    )
    with pytest.raises(ValueError, match="made through other views"):
        open_data(other)


def test_a_picture_that_breaks_after_tokenizing_is_left_out_of_its_sample(tmp_path, caplog):
    config = write(tmp_path, sample_names(6), views=1, augment=False)
    (tmp_path / "raw/a/0002.npy").write_bytes(b"rubbish")
    data, pixels = open_data(config), VOCABULARY["a@pixels"].index
    order = epoch_order(6, 0, 0)
    position = next(p for p in range(6) if data.store.names[order[p]] == "0002")
    for epoch in range(10):
        at = next(p for p in range(6) if data.store.names[epoch_order(6, 0, epoch)[p]] == "0002")
        assert (data[6 * epoch + at].encoder[2] != pixels).all()
    assert data.store.raw.data.errors == {"a@pixels": 1}
    assert "a/0002.npy: a@pixels: truncated" in caplog.text
    fresh = open_data(config)
    np.testing.assert_array_equal(fresh[position].encoder, data[position].encoder)


def test_samples_and_shards_that_are_not_tokenized_are_reported(tmp_path, caplog):
    config = write(tmp_path, sample_names(20))
    (tmp_path / "tokens/train/b/shard-00001.safetensors").unlink()
    write_data(tmp_path / "raw", MODALITIES, sample_names(1, start=50))
    open_data(config)
    assert "lacks 1 of 21 samples, such as 0050" in caplog.text
    assert "tokens/train/b/shard-00001.safetensors is missing; its samples are used without b;" in caplog.text
    open_data(config.model_copy(update={"tokens": tmp_path / "elsewhere"}))
    assert "no tokens in" in caplog.text


def test_no_more_files_are_compared_than_a_start_has_time_for(tmp_path, monkeypatch):
    config, seen, stamp = write(tmp_path, sample_names(20)), [], AlignedData.stamp
    monkeypatch.setattr(AlignedData, "stamp", lambda *args: seen.append(args) or stamp(*args))
    open_data(config)
    assert len(seen) == 20 * len(TOKENIZERS)
    seen.clear()
    monkeypatch.setattr("fourm_engine.data.data_store._FILES", 30)
    open_data(config)
    assert 20 < len(seen) <= 30


def test_files_that_changed_after_tokenizing_are_reported(tmp_path, caplog):
    config = write(tmp_path, sample_names(5))
    open_data(config)
    assert "size or time" not in caplog.text
    os.utime(tmp_path / "raw/b/0003.npy", ns=(1, 1))
    open_data(config)
    files = 5 * len(TOKENIZERS)
    assert f"size or time of 1 of {files} files (b) changed since tokenizing, such as {tmp_path}" in caplog.text
    assert "b/0003.npy; run `fourm tokenize`" in caplog.text


def test_a_copy_of_a_data_folder_whose_times_are_all_other_is_one_line(tmp_path, caplog):
    config = write(tmp_path, sample_names(5))
    for path in (tmp_path / "raw").rglob("*.*"):
        os.utime(path, ns=(1, 1))
    open_data(config)
    files = 5 * len(TOKENIZERS)
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert line.startswith(f"size or time of {files} of {files} files ({', '.join(TOKENIZERS)}) changed")


def test_tokens_whose_files_have_vanished_are_used_and_told(tmp_path, caplog):
    config = write(tmp_path, sample_names(5))
    (tmp_path / "raw/b/0003.npy").unlink()
    with caplog.at_level("INFO"):
        data = open_data(config)
    assert "raw: 1 file gone, such as b of 0003; tokens are used" in caplog.text
    assert one(data, "0003", "b").shape == (16,)


def test_tokens_made_with_other_settings_are_an_error_that_names_the_setting(tmp_path):
    config = write(tmp_path, sample_names(3))
    others = {**MODALITIES, "a": fake_modalities(["a"], size=16)["a"]}
    for action in (
        lambda: MaskedSamples.from_config(config, MASKING, others, TOKENIZERS, VOCABULARY, seed=0),
        lambda: tokenize_split(AlignedData(config.train, others), config.tokens / "train", TOKENIZERS, config),
    ):
        with pytest.raises(
            ValueError, match=r"modalities\.settings\.a\.size was 8, is 16; restore it, or remove .*train/a"
        ):
            action()


def test_data_in_which_no_sample_has_what_is_trained_is_an_error_before_any_work(tmp_path):
    names = {"a": sample_names(3), "b": sample_names(3), "words": sample_names(3, start=50)}
    write_data(tmp_path, MODALITIES, names)
    needs = MaskingConfig(
        input_tokens=(4, 12),
        target_tokens=14,
        mixture=(Component(name="captions", input={"a": 1}, target={"words": 1}),),
    )
    with pytest.raises(
        ValueError, match=r"none of the 6 samples has inputs and targets for any component .* a 3 \(lacks"
    ):
        open_data(DataConfig(train=tmp_path), masking=needs)


def test_a_modality_of_which_no_file_can_be_used_is_an_error_before_any_work(tmp_path):
    write_data(tmp_path / "raw", MODALITIES, sample_names(3))
    for path in (tmp_path / "raw/words").iterdir():
        path.write_bytes(b"")
    config = DataConfig(train=tmp_path / "raw", tokens=tmp_path / "tokens")
    with pytest.raises(ValueError, match="none of the 3 files of words can be used"):
        open_data(config)
    with pytest.raises(ValueError, match="none of the 3 files of words can be used"):
        tokenize_split(AlignedData(tmp_path / "raw", MODALITIES), tmp_path / "tokens/train", TOKENIZERS, config)
    assert not (tmp_path / "tokens").exists()

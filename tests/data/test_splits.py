"""A run uses the samples of the split that its config names, raw or tokenized, and says how many."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from fourm_engine.data.config import DataConfig
from fourm_engine.data.names_table import Names, NameTable
from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.samples import MaskedSamples
from fourm_engine.data.sets import data_sets, say_unused_lists
from fourm_engine.data.splits import Split
from fourm_engine.data.tokens.tokenize import tokenize_split
from fourm_engine.masking.config import MaskingConfig
from fourm_engine.vocabulary import Vocabulary
from tests.fakes import fake_modalities, fake_tokenizers, sample_names, write_data

MODALITIES = fake_modalities()
TOKENIZERS = fake_tokenizers(MODALITIES)
VOCABULARY = Vocabulary.build(m.spec for m in MODALITIES.values())
NAMES = sample_names(8)


@pytest.fixture
def config(tmp_path):
    """Six samples in split `train`, the last two in `val`; the tokens are of all."""
    write_data(tmp_path / "raw", MODALITIES, NAMES)
    split(tmp_path, train=NAMES[:6], val=NAMES[6:])
    config = DataConfig(train=tmp_path / "raw", tokens=tmp_path / "tokens", shard_size=3)
    tokenize(config)
    return config


def split(root, **splits):
    (root / "raw/splits.json").write_text(json.dumps(splits))


def tokenize(config):
    for part, training in (("train", True), ("val", False)):
        if training or config.val is not None:
            data = AlignedData.from_config(MODALITIES, config, training=training)
            tokenize_split(data, config.tokens / part, TOKENIZERS, config, training=training)


def open_data(config, training=True):
    return MaskedSamples.from_config(
        config, MaskingConfig(), MODALITIES, TOKENIZERS, VOCABULARY, seed=0, training=training
    )


def given(config, **changes):
    return config.model_copy(update=changes)


def test_held_out_samples_are_not_trained_on_though_they_have_tokens(config):
    assert open_data(config).store.names == NAMES
    data = open_data(given(config, train_split="train"))
    assert data.store.names == NAMES[:6]
    assert len(data) == 6
    assert data.store.describe().startswith("train: 6 samples (split 'train' of ")


def test_a_split_that_changes_after_tokenizing_counts_as_it_is_now(config, tmp_path):
    chosen = given(config, train_split="train")
    split(tmp_path, train=NAMES[2:5])
    assert open_data(chosen).store.names == NAMES[2:5]
    assert open_data(given(chosen, tokens=None)).store.names == NAMES[2:5]


def test_a_split_none_of_which_is_tokenized_is_an_error_with_its_remedy(tmp_path):
    write_data(tmp_path / "raw", MODALITIES, NAMES)
    split(tmp_path, train=NAMES[:6], rest=NAMES[6:])
    config = DataConfig(train=tmp_path / "raw", tokens=tmp_path / "tokens", train_split="train")
    tokenize(config)
    with pytest.raises(ValueError, match=r"none of its 6 samples is in split 'rest' .*run `fourm tokenize`"):
        open_data(given(config, train_split="rest"))
    tokenize(given(config, train_split="rest"))
    assert open_data(given(config, train_split="rest")).store.names == NAMES[6:]
    assert open_data(config).store.names == NAMES[:6]


def test_tokens_alone_are_split_as_when_they_were_made(config, caplog):
    chosen = given(config, train_split="train")
    shutil.rmtree(config.train)
    assert open_data(chosen).store.names == NAMES[:6]
    assert "is not there; " in caplog.text
    assert open_data(given(chosen, train=None)).store.names == NAMES[:6]


def test_a_sample_that_is_held_out_too_is_left_out_of_training(config, caplog):
    both = given(config, val=config.train, val_split="val")
    assert open_data(both).store.names == NAMES[:6]
    assert AlignedData.from_config(MODALITIES, both, training=True).names == NAMES[:6]
    assert open_data(given(both, tokens=None), training=False).store.names == NAMES[6:]
    assert "2 of 8 training samples, such as 0006, are held-out samples too" in caplog.text


def test_training_on_nothing_but_held_out_samples_is_said(config, caplog):
    assert open_data(given(config, val=config.train)).store.names == NAMES
    assert "all 8 training samples are held-out samples too" in caplog.text


def test_the_folder_of_held_out_samples_is_compared_not_how_it_is_written(config, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "raw")
    assert Split.from_config(given(config, val=tmp_path / "link", val_split="val"), training=True).held_out == set(
        NAMES[6:]
    )
    other = tmp_path / "other"
    shutil.copytree(config.train, other)
    assert Split.from_config(given(config, val=other, val_split="val"), training=True).held_out == set()


def test_samples_that_come_later_are_rows_behind_the_others_and_no_other_moves(tmp_path):
    write_data(tmp_path / "raw", MODALITIES, NAMES[2:])
    config = DataConfig(train=tmp_path / "raw", tokens=tmp_path / "grown", shard_size=3)
    tokenize(config)
    assert open_data(config).store.names == NAMES[2:]
    write_data(tmp_path / "raw", MODALITIES, NAMES)
    tokenize(config)
    anew = given(config, tokens=tmp_path / "anew")
    tokenize(anew)
    grown, once = open_data(config).store, open_data(anew).store
    assert once.names == NAMES  # tokenized at once they are sorted
    assert grown.names == NAMES[2:] + NAMES[:2]
    assert grown.shard_sizes.tolist() == [3, 3, 2]
    assert grown.identity() != once.identity()
    for row, name in enumerate(grown.names):
        assert (grown.load(row, "a") == once.load(NAMES.index(name), "a")).all()


def held_out(config, share):
    return DataConfig.model_validate(config.model_dump() | {"held_out": share})


def test_a_share_is_held_out_by_name_and_more_samples_move_no_other(config):
    shared = held_out(config, 0.3)
    assert shared.val == config.train
    parts = [AlignedData.from_config(MODALITIES, shared, training=training).names for training in (True, False)]
    assert parts[1]
    assert sorted([*parts[0], *parts[1]]) == NAMES
    more = sample_names(30)
    write_data(config.train, MODALITIES, more)
    grown = [AlignedData.from_config(MODALITIES, shared, training=training).names for training in (True, False)]
    assert set(parts[0]) < set(grown[0])
    assert set(parts[1]) < set(grown[1])
    assert "held out: a share of 0.3" in AlignedData.from_config(MODALITIES, shared, training=False).describe()


def test_a_share_of_the_training_samples_holds_any_smaller_one_and_no_held_out_sample_changes(config):
    def names(tokens=config.tokens, training=True, **changes):
        return set(open_data(given(held_out(config, 0.3), tokens=tokens, **changes), training).store.names)

    everything, half, fifth = names(), names(train_share=0.5), names(train_share=0.2)
    assert fifth < half < everything
    assert names(None, train_share=0.5) == half  # of raw data
    assert names(None, training=False, train_share=0.2) == names(None, training=False)
    said = open_data(given(config, train_share=0.5)).store.describe()
    assert "a share of 0.5 of all samples" in said
    with pytest.raises(ValueError, match=r"data\.train_share: a share of 1e-09 of 8 samples is none; raise it"):
        open_data(given(config, train_share=1e-9))


def test_sub_folders_are_held_out():
    names = ["train/a", "val/a", "val2/a", "test/x/a"]
    for training, expected in ((True, {"train/a", "val2/a"}), (False, {"val/a", "test/x/a"})):
        config = DataConfig(train="data", held_out=["val", "test"])
        assert Split.from_config(config, training=training).select(names) == expected


@pytest.mark.parametrize("share", [0.3, ("b", "d")])
@pytest.mark.parametrize("part", ["train", "val"])
def test_of_names_in_a_table_the_same_are_chosen_without_an_object_each(share, part):
    names = [f"{folder}/{i}" for folder in "abcd" for i in range(30)]
    split = Split(part, None, None, share=share, taken=0.5)
    chosen = split.select(Names(NameTable.build(names)))
    assert isinstance(chosen, Names)
    assert frozenset(chosen) == split.select(names)
    assert 0 < len(chosen) < len(names)


@pytest.mark.parametrize(("share", "training"), [(1e-9, False), (1 - 1e-9, True), (["nowhere"], False)])
def test_a_share_that_leaves_nothing_is_refused(config, share, training):
    which = "all" if training else "none"
    with pytest.raises(ValueError, match=rf"data\.held_out: .* {which} of 8 samples; choose another"):
        AlignedData.from_config(MODALITIES, held_out(config, share), training=training)


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"val": "elsewhere"}, "set val=train"),
        ({"train_split": "train"}, "use one of them"),
        ({"held_out": 1.5}, "a share between 0 and 1, such as 0.1, or a list"),
        ({"held_out": float("nan")}, "a share between 0 and 1"),
        ({"held_out": []}, "a share between 0 and 1"),
        ({"held_out": None, "train": ["data/photos"]}, "written {path: data/photos}"),
    ],
)
def test_a_share_beside_other_ways_to_hold_out_is_refused(other, says):
    with pytest.raises(ValueError, match=says):
        DataConfig.model_validate({"train": "data", "held_out": 0.1} | other)


def test_tokens_of_a_held_out_share_are_used_part_by_part(config, tmp_path):
    shared = held_out(config, 0.3).model_copy(update={"tokens": tmp_path / "apart"})
    tokenize(shared)
    parts = [open_data(shared, training=training).store.names for training in (True, False)]
    assert parts[1]
    assert sorted([*parts[0], *parts[1]]) == NAMES


def test_what_a_larger_share_holds_out_is_not_trained_on_although_it_was_tokenized(config, tmp_path):
    less, more = (held_out(config, share).model_copy(update={"tokens": tmp_path / "apart"}) for share in (0.2, 0.6))
    tokenize(less)
    now_held_out = AlignedData.from_config(MODALITIES, more, training=False).names
    before, after = open_data(less).store.names, open_data(more).store.names
    assert set(before) & set(now_held_out)
    assert set(after) == set(before) - set(now_held_out)


def test_a_pipe_called_splits_is_not_waited_for(config):
    path = config.train / "splits.json"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ValueError, match=r"splits\.json: .*no regular file; remove it"):
        Split.from_config(given(config, train_split="train"), training=True)


def test_lists_beside_training_data_that_are_not_used_are_said_once(config, caplog):
    cases = {"held_out": "data.held_out is set", "none": "data.train_split is not set", "list": "data.train.0.split"}
    modalities = fake_modalities(["a"])
    for case, says in cases.items():
        caplog.clear()
        root = config.train.rename(config.train.parent / case)
        (root / "splits.json").write_text("{}")
        train = [{"path": str(root)}] if case == "list" else str(root)
        given = DataConfig(train=train, **({"held_out": 0.3} if case == "held_out" else {}))
        for _ in range(2):
            say_unused_lists(data_sets(given, modalities))
        (line,) = caplog.messages
        assert line.startswith(f"{root}/splits.json is not used: ")
        assert says in line
        assert "; to use it, set data." in line
        root.rename(config.train)
    say_unused_lists(data_sets(DataConfig(train=str(config.train), train_split="train"), modalities))
    assert len(caplog.messages) == 1

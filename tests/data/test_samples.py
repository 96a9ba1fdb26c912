"""Training samples and batches are pure functions of (seed, position)."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections import Counter
from dataclasses import fields
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fourm_engine.batch import Batch, Patches, Tokens
from fourm_engine.data.config import DataConfig
from fourm_engine.data.loader import MicroBatches, batches
from fourm_engine.data.order import Share, epoch_order
from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.raw.cache import ArrayCache
from fourm_engine.data.samples import MaskedSamples
from fourm_engine.data.tokens.tokenize import tokenize_split
from fourm_engine.masking.config import Component, MaskingConfig
from fourm_engine.masking.pack import patchify
from fourm_engine.vocabulary import Vocabulary
from tests.fakes import LevelsTokenizer, fake_modalities, fake_tokenizers, sample_names, write_data

MODALITIES = fake_modalities()
TOKENIZERS = fake_tokenizers(MODALITIES)
VOCABULARY = Vocabulary.build(m.spec for m in MODALITIES.values())
MASKING = MaskingConfig(
    input_tokens=(4, 12),
    target_tokens=14,
    mixture=(
        Component(name="all2all"),
        Component(name="pixels2all", weight=2, input={"a@pixels": 10}, target={"*": 0.5}),
    ),
)


def write(root, names, views=2, augment=True):
    """Raw data and tokens below `root`; the config that reads them."""
    write_data(root / "raw", MODALITIES, names)
    config = DataConfig(train=root / "raw", tokens=root / "tokens", views=views, augment=augment, shard_size=8)
    tokenize_split(AlignedData(root / "raw", MODALITIES), root / "tokens/train", TOKENIZERS, config)
    return config


def open_data(config, seed=0, masking=MASKING, **options):
    return MaskedSamples.from_config(config, masking, MODALITIES, TOKENIZERS, VOCABULARY, seed=seed, **options)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    names = {"a": sample_names(20), "b": sample_names(18, start=2), "words": sample_names(9)}
    return write(tmp_path_factory.mktemp("data"), names)


def tensors(batch):
    """Every tensor of a batch, by name."""
    found = {"counts": torch.tensor(list(batch.target_counts.values()))}
    for field in fields(Batch):
        value = getattr(batch, field.name)
        if isinstance(value, Tokens):
            found |= {f"{field.name}.{f.name}": getattr(value, f.name) for f in fields(Tokens)}
        elif isinstance(value, torch.Tensor):
            found[field.name] = value
    for name, patches in batch.continuous.items():
        found |= {f"{name}.{f.name}": getattr(patches, f.name) for f in fields(Patches)}
    return found


def assert_same(x, y):
    x, y = tensors(x), tensors(y)
    assert x.keys() == y.keys()
    for name, tensor in x.items():
        assert torch.equal(tensor, y[name]), name


def one(data, name, modality, view=0):
    return data.store.load(data.store.names.index(name), modality, view)


def test_an_item_depends_on_seed_and_position_alone(config):
    data, other = open_data(config), open_data(config)
    for position in reversed(range(45)):
        other[position]
    for position in range(45):
        x, y = data[position], other[position]
        np.testing.assert_array_equal(x.encoder, y.encoder)
        np.testing.assert_array_equal(x.decoder, y.decoder)
        np.testing.assert_array_equal(x.labels, y.labels)
    different = open_data(config, seed=1)
    assert any(data[p].encoder.shape != different[p].encoder.shape for p in range(20))


def test_items_hold_the_tokens_and_pixels_of_one_sample_and_view(config):
    data = open_data(config)
    order = epoch_order(len(data), 0, 0)
    checked = set()
    for position in range(len(data)):
        row, sample = int(order[position]), data[position]
        fits = []
        for view in range(2):
            fit = True
            for modality in data.store.has(row):
                entry, content = VOCABULARY[modality], data.store.load(row, modality, view)
                ids, pos, mod, _ = sample.encoder
                mine = mod == entry.index
                if modality == "a@pixels":
                    if mine.any():
                        fit &= np.array_equal(sample.continuous[modality].rows(), content[pos[mine]])
                        checked.add(modality)
                elif modality != "words":
                    fit &= np.array_equal(ids[mine] - entry.start, content[pos[mine]])
                    mine = sample.decoder[2] == entry.index
                    fit &= np.array_equal(sample.labels[mine], content[sample.decoder[1][mine]])
                    checked.add(modality)
            fits.append(fit)
        assert any(fits)
    assert checked == {"a", "a@pixels", "b"}


def test_pixels_are_seen_through_the_recorded_view(config):
    data = open_data(config)
    for view in range(2):
        crop = data.store.raw.seen.get("0003", view)["image"]
        expected = patchify(data.store.raw.data.array("0003", "a@pixels", crop), MODALITIES["a@pixels"].spec)
        for _ in range(2):  # read, then from the cache
            np.testing.assert_array_equal(one(data, "0003", "a@pixels", view), expected)


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


def test_a_sample_that_cannot_be_used_gives_way_to_the_next_of_the_permutation(tmp_path):
    names = {"a": sample_names(6), "b": sample_names(8), "words": sample_names(6)}
    masking = MaskingConfig(
        input_tokens=4, target_tokens=4, mixture=(Component(name="it", input={"a": 1}, target={"b": 1}),)
    )
    data = open_data(write(tmp_path, names), masking=masking)
    order = epoch_order(8, 0, 0)
    for position in range(8):
        at = position
        while data.store.names[order[at % 8]] not in names["a"]:
            at += 1
        row, sample = int(order[at % 8]), data[position]
        ids, pos, _, _ = sample.encoder
        assert any(
            np.array_equal(ids - VOCABULARY["a"].start, data.store.load(row, "a", view)[pos])
            for view in range(data.store.views)
        )
    nothing = masking.model_copy(update={"mixture": (Component(name="it", input={"a": 1}, target={"words": 1}),)})
    few = {"a": sample_names(2), "b": sample_names(4), "words": sample_names(2, start=2)}
    with pytest.raises(ValueError, match="none of the 4 samples"):
        open_data(write(tmp_path / "few", few), masking=nothing)[0]


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


def test_nothing_is_shown_where_a_component_says_so(config):
    masking = MaskingConfig(input_tokens=0, target_tokens=8, mixture=(Component(name="blind"),))
    blind = open_data(config, masking=masking)
    assert all(blind[p].encoder.shape == (4, 0) and blind[p].component == "blind" for p in range(20))


def test_samples_and_shards_that_are_not_tokenized_are_reported(tmp_path, caplog):
    config = write(tmp_path, sample_names(20))
    (tmp_path / "tokens/train/b/shard-00001.safetensors").unlink()
    write_data(tmp_path / "raw", MODALITIES, sample_names(1, start=50))
    open_data(config)
    assert "lacks 1 of 21 samples, such as 0050" in caplog.text
    assert "tokens/train/b lacks 1 shard of" in caplog.text
    open_data(config.model_copy(update={"tokens": tmp_path / "elsewhere"}))
    assert "no tokens in" in caplog.text


def test_files_that_changed_after_tokenizing_are_reported(tmp_path, caplog):
    config = write(tmp_path, sample_names(5))
    open_data(config)
    assert "size or time" not in caplog.text
    os.utime(tmp_path / "raw/b/0003.npy", ns=(1, 1))
    open_data(config)
    files = 5 * len(TOKENIZERS)
    assert f"{tmp_path / 'raw'}: size or time of 1 of {files} files (b), such as" in caplog.text
    assert "b/0003.npy, is not that of when they were tokenized" in caplog.text


def test_a_copy_of_a_data_folder_whose_times_are_all_other_is_one_line(tmp_path, caplog):
    config = write(tmp_path, sample_names(5))
    for path in (tmp_path / "raw").rglob("*.*"):
        os.utime(path, ns=(1, 1))
    open_data(config)
    files = 5 * len(TOKENIZERS)
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert line.startswith(f"{tmp_path / 'raw'}: size or time of {files} of {files} files ({', '.join(TOKENIZERS)}), ")


def test_tokens_whose_files_have_vanished_are_used_and_told(tmp_path, caplog):
    config = write(tmp_path, sample_names(5))
    (tmp_path / "raw/b/0003.npy").unlink()
    with caplog.at_level("INFO"):
        data = open_data(config)
    assert "raw: 1 file, such as that of b of 0003, is no longer there; the tokens are used" in caplog.text
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


def test_batches_do_not_depend_on_workers(config):
    data = open_data(config)
    alone = list(islice(batches(data, Share(batch_size=6)), 5))
    for x, y in zip(alone, islice(batches(data, Share(batch_size=6), workers=2), 5)):
        assert_same(x, y)


def test_data_in_use_can_be_sent_to_another_process(config):
    data = open_data(config)
    data[3]
    other = pickle.loads(pickle.dumps(data))
    for position in range(20):
        np.testing.assert_array_equal(other[position].decoder, data[position].decoder)


def test_a_run_resumed_at_a_step_gets_the_batches_it_would_have_got(config):
    data = open_data(config)
    share = Share(batch_size=6, accumulate=2)
    through = list(islice(batches(data, share), 14))
    resumed = list(islice(batches(open_data(config), share, start_step=4), 6))
    for x, y in zip(through[8:], resumed, strict=True):
        assert_same(x, y)


def test_reading_batches_leaves_the_global_generator_alone(config):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    list(islice(batches(open_data(config), Share(batch_size=4)), 2))
    assert torch.equal(torch.rand(3), expected)


@settings(max_examples=50)
@given(world=st.integers(1, 5), accumulate=st.integers(1, 3), micro=st.integers(1, 4), start=st.integers(0, 5))
def test_the_shares_of_ranks_and_micro_batches_tile_the_global_batch(world, accumulate, micro, start):
    batch_size = world * accumulate * micro
    ranks = [
        list(islice(MicroBatches(Share(rank, world, batch_size, accumulate), start), 2 * accumulate))
        for rank in range(world)
    ]
    for s in range(2):
        step = [p for rank in ranks for part in rank[s * accumulate : (s + 1) * accumulate] for p in part]
        assert step == list(range((start + s) * batch_size, (start + s + 1) * batch_size))


def test_two_ranks_read_what_one_process_reads(config):
    data = open_data(config)
    whole = next(batches(data, Share(batch_size=8), start_step=3))
    halves = [next(batches(data, Share(rank, 2, batch_size=8), start_step=3)) for rank in range(2)]
    assert torch.equal(whole.encoder.ids, torch.cat([half.encoder.ids for half in halves]))
    assert torch.equal(whole.decoder.ids, torch.cat([half.decoder.ids for half in halves]))
    assert whole.target_counts == {
        name: sum(half.target_counts[name] for half in halves) for name in whole.target_counts
    }


def test_cached_arrays_are_what_was_put_in_and_stay_within_their_budget():
    cache, rng = ArrayCache(1000), np.random.default_rng(0)
    arrays = {(i,): rng.integers(0, 255, (5, 4 + i % 2)).astype(np.uint8) for i in range(100)}
    for key, array in arrays.items():
        cache.put(key, array)
    kept = {key: cache.get(key) for key in arrays if cache.get(key) is not None}
    assert all((found == arrays[key]).all() for key, found in kept.items())
    assert 900 <= sum(found.nbytes for found in kept.values()) <= 1000


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


@given(positions=st.lists(st.integers(0, 60), min_size=1, max_size=9))
@settings(max_examples=20)
def test_samples_fetched_together_are_those_fetched_one_by_one(config, positions):
    data = open_data(config)
    for position, x in zip(positions, data.__getitems__(positions)):
        y = data[position]
        for part in ("encoder", "decoder", "labels"):
            np.testing.assert_array_equal(getattr(x, part), getattr(y, part))
        assert {n: k.rows().tolist() for n, k in x.continuous.items()} == {
            n: k.rows().tolist() for n, k in y.continuous.items()
        }

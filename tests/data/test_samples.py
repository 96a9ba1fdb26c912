"""Training samples and batches are pure functions of (seed, position)."""

from __future__ import annotations

import multiprocessing
import pickle
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fourm_engine.data.loader import batches, micro_batches
from fourm_engine.data.order import Share, epoch_order
from fourm_engine.data.raw.store import ArrayCache
from fourm_engine.masking.config import Component, MaskingConfig
from fourm_engine.masking.pack import patchify
from tests.data.training_data import MODALITIES, VOCABULARY, assert_same, config, one, open_data, write
from tests.fakes import sample_names

__all__ = ["config"]


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


def test_nothing_is_shown_where_a_component_says_so(config):
    masking = MaskingConfig(input_tokens=0, target_tokens=8, mixture=(Component(name="blind"),))
    blind = open_data(config, masking=masking)
    assert all(blind[p].encoder.shape == (4, 0) and blind[p].component == "blind" for p in range(20))


@pytest.mark.parametrize(("method", "workers"), [("fork", 2), ("forkserver", 1)])
def test_batches_do_not_depend_on_workers(config, method, workers):
    """Nor on how they start: by a fork server from Python 3.14 on."""
    data = open_data(config)
    alone, before = list(islice(batches(data, Share(batch_size=6)), 5)), multiprocessing.get_start_method()
    multiprocessing.set_start_method(method, force=True)
    try:
        for x, y in zip(alone, islice(batches(data, Share(batch_size=6), workers=workers), 5), strict=True):
            assert_same(x, y)
    finally:
        multiprocessing.set_start_method(before, force=True)


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
        list(islice(micro_batches(Share(rank, world, batch_size, accumulate), start), 2 * accumulate))
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

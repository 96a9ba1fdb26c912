"""Several data sets in one mixture: their shares hold, each goes through epochs of its own, modalities may differ."""

from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fourm_engine.data.config import DataConfig, TrainingSet
from fourm_engine.data.mixture import BLOCK, MixedOrder, Mixture
from fourm_engine.data.order import Order
from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.samples import MaskedSamples
from fourm_engine.data.store import MemoryStore
from fourm_engine.data.tokens.tokenize import tokenize_split
from fourm_engine.masking.config import MaskingConfig
from fourm_engine.vocabulary import Vocabulary
from tests.fakes import fake_modalities, fake_tokenizers, sample_names, write_data

MODALITIES = fake_modalities(["a", "b"])
TOKENIZERS = fake_tokenizers(MODALITIES)
VOCABULARY = Vocabulary.build(m.spec for m in MODALITIES.values())
MASKING = MaskingConfig(input_tokens=4, target_tokens=4)
TOKENS = {name: modality.spec.layout.num_tokens for name, modality in MODALITIES.items()}


def mixed(sizes, weights, lanes, seed=0):
    orders = [Order(np.full(8, n // 8), seed, lanes=lanes, part=part) for part, n in enumerate(sizes)]
    return MixedOrder(orders, weights, seed, lanes=lanes)


@pytest.mark.parametrize("lanes", [1, 4])
def test_the_position_of_a_row_of_a_mixture_is_where_it_comes(lanes):
    order = mixed([16, 80, 8], [0.5, 8.0, 0.01], lanes)
    for row in (0, 15, 16, 40, 95, 96, 103):
        for epoch in (0, 1, 30):
            assert order.row(order.position(row, epoch)) == row
    assert len({order.position(7, epoch) for epoch in range(20)}) == 20


def memory(n, value, modalities=TOKENS):
    contents = {name: np.full(TOKENS[name], value) for name in modalities}
    return MemoryStore({f"{value}-{i}": contents for i in range(n)})


@settings(max_examples=8, deadline=None)
@given(
    weights=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=5),
    lanes=st.sampled_from([1, 2, 4]),
    blocks=st.integers(1, 2),
)
def test_shares_hold_after_every_block_to_as_many_samples_a_lane_as_there_are_data_sets(weights, lanes, blocks):
    order = mixed([80] * len(weights), weights, lanes)
    total = BLOCK * lanes * blocks
    counts = Counter(order.locate(position)[0] for position in range(total))
    for part, weight in enumerate(weights):
        assert abs(counts[part] - total * weight / sum(weights)) <= len(weights) * lanes


def test_a_data_set_of_a_tiny_share_comes_as_often_as_it_should():
    order = mixed([80, 80], [1, 0.0002], 4)
    assert 3 <= sum(order.locate(position)[0] for position in range(20_000)) <= 5  # 4 = 20,000 x 0.0002


class Stored(MemoryStore):
    """A store of so many shards."""

    def __init__(self, shards, remote):
        super().__init__({str(number): {"a": np.zeros(1, np.int64)} for number in range(shards)})
        self.reads_ahead, self._shards = remote, shards

    @property
    def shard_sizes(self):
        return np.ones(self._shards, np.int64)


def test_data_sets_that_are_read_in_lanes_have_equally_many_and_the_others_are_permuted():
    stores = {"x": Stored(100, True), "y": Stored(900, True), "z": Stored(900, False), "few": Stored(9, True)}
    entries = [TrainingSet(path=name) for name in stores]
    order = Mixture(stores, entries).order(0, batch_size=64)
    assert [one.lanes for one in order.orders] == [32, 32, 1, 1]
    assert order.lanes == 32
    assert order.identity() == {
        "lanes": 32,
        "train.0.lanes": 32,
        "train.1.lanes": 32,
        "train.2.lanes": 1,
        "train.3.lanes": 1,
        "window": 4,
    }
    assert {one.lanes for one in Mixture(stores, entries).order(0, lanes=8).orders} == {8}


@settings(max_examples=8, deadline=None)
@given(weights=st.lists(st.floats(0.1, 5), min_size=2, max_size=4), lanes=st.sampled_from([1, 4]))
def test_no_position_of_a_data_set_is_left_out_or_comes_twice(weights, lanes):
    order = mixed([80] * len(weights), weights, lanes)
    located = [order.locate(position) for position in range(3 * BLOCK * lanes)]
    for part in range(len(weights)):
        positions = sorted(position for which, position in located if which == part)
        assert len(set(positions)) == len(positions)
        for lane in range(lanes):  # without a gap in every lane, which is the lane of the mixture
            mine = [position // lanes for position in positions if position % lanes == lane]
            assert mine == list(range(len(mine)))
    assert all(position % lanes == p % lanes for p, (_, position) in enumerate(located))


def test_each_data_set_goes_through_epochs_of_its_own():
    order = mixed([80, 800], [1, 1], 1)
    rows = [order.row(position) for position in range(1600)]
    small = [row for row in rows if row < 80]
    assert len(small) == pytest.approx(800, abs=BLOCK // 2)
    for epoch in range(9):
        assert sorted(small[80 * epoch : 80 * (epoch + 1)]) == list(range(80))
    large = [row - 80 for row in rows if row >= 80]
    assert len(set(large[:800])) == min(800, len(large))


def test_a_mixture_is_a_store_whose_parts_keep_their_modalities_and_names():
    store = Mixture({"x": memory(3, 1), "y": memory(5, 2, ["a"])}, [TrainingSet(path="x"), TrainingSet(path="y")])
    assert len(store) == 8
    assert list(store.names) == [f"1-{i}" for i in range(3)] + [f"2-{i}" for i in range(5)]
    assert store.names[2:4] == ["1-2", "2-0"]
    assert store.kinds() == {frozenset("ab"): 3, frozenset("a"): 5}
    assert [int(store.load(row, "a")[0]) for row in range(8)] == [1] * 3 + [2] * 5
    assert store.has(2) == frozenset("ab")
    assert store.has(3) == frozenset("a")
    assert store.weights == [3, 5]  # proportional to size
    assert "  37.50% 3 samples\n  62.50% 5 samples" in store.describe()


def test_weights_and_repeats_say_how_often_a_data_set_comes():
    stores = {"x": memory(3, 1), "y": memory(5, 2)}
    entries = [TrainingSet(path="x", weight=0.25), TrainingSet(path="y", weight=0.75)]
    assert Mixture(stores, entries).weights == [0.25, 0.75]
    entries = [TrainingSet(path="x", repeats=4), TrainingSet(path="y")]
    mixture = Mixture(stores, entries)
    assert mixture.weights == [12, 5]
    order = mixture.order(0)
    counts = Counter(order.row(position) < 3 for position in range(17 * 100))
    assert counts[True] == pytest.approx(1200, abs=60)


def test_a_change_of_weights_or_sizes_is_named_by_the_entry():
    stores = {"x": memory(3, 1), "y": memory(5, 2)}
    one, other = (
        Mixture(stores, [TrainingSet(path="x", weight=1), TrainingSet(path="y", weight=w)]).identity() for w in (1, 2)
    )
    assert one["train.0"] == other["train.0"]
    assert (one["train.1"]["weight"], other["train.1"]["weight"]) == (1, 2)
    assert one["train.1"]["samples"] == 5


def write_sets(root):
    """Two data sets: the first with raw data and tokens of both modalities, the second raw and of "a" alone."""
    write_data(root / "x", MODALITIES, sample_names(12))
    write_data(root / "y", {"a": MODALITIES["a"]}, sample_names(6))
    entries = ({"path": root / "x", "tokens": root / "tx"}, {"path": root / "y", "weight": None})
    config = DataConfig(train=entries)
    tokenize_split(AlignedData(root / "x", MODALITIES), root / "tx/train", TOKENIZERS, config)
    return config


def open_data(config, **options):
    return MaskedSamples.from_config(config, MASKING, MODALITIES, TOKENIZERS, VOCABULARY, seed=0, **options)


def test_a_list_of_data_sets_is_trained_on_together_from_tokens_and_raw_files(tmp_path):
    data = open_data(write_sets(tmp_path))
    assert len(data) == 18
    assert data.store.kinds() == {frozenset("ab"): 12, frozenset("a"): 6}
    samples = [data[position] for position in range(60)]
    again = pickle.loads(pickle.dumps(data))
    for position in (0, 7, 59):
        np.testing.assert_array_equal(again[position].decoder, samples[position].decoder)
    assert "66.67% 12 samples (all samples of" in data.store.describe()


def test_a_data_set_may_give_some_of_its_modalities(tmp_path):
    config = write_sets(tmp_path)
    entries = [config.sets[0].model_copy(update={"modalities": ["a"]}), config.sets[1]]
    data = open_data(DataConfig(train=[entry.model_dump() for entry in entries]))
    assert data.store.kinds() == {frozenset("a"): 18}
    entries[0] = config.sets[0].model_copy(update={"modalities": ["sound"]})
    with pytest.raises(ValueError, match=r"data\.train\.0\.modalities: 'sound' takes no part; there are a"):
        open_data(DataConfig(train=[entry.model_dump() for entry in entries]))


def test_an_error_of_a_data_set_names_its_entry(tmp_path):
    config = write_sets(tmp_path)
    entries = [config.sets[0], TrainingSet(path=tmp_path / "nowhere")]
    with pytest.raises(ValueError, match=r"^data\.train\.1: .*nowhere: no such folder"):
        open_data(DataConfig(train=[entry.model_dump() for entry in entries]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train": []}, "an empty list"),
        ({"train": [{"weight": 1}]}, "needs a path"),
        ({"train": [{"path": "x", "weight": 1, "repeats": 2}]}, "weight and repeats both say"),
        ({"train": [{"path": "x", "weight": 1}, {"path": "y"}]}, r"train\.1 has no weight"),
        ({"train": [{"path": "x"}], "train_split": "some"}, "each data set of the list `train` has its own `split`"),
        ({"train": [{"path": "x"}], "tokens": "t"}, "each of its data sets names its own"),
        ({"train": [{"path": "x", "tokens": "t"}, {"path": "y", "tokens": "t"}]}, "one folder of tokens"),
    ],
)
def test_settings_that_contradict_each_other_are_an_error_with_the_remedy(settings, message):
    with pytest.raises(ValidationError, match=message):
        DataConfig(**settings)
    assert DataConfig(train="x", tokens="t", train_split="some").folder is not None


def test_a_data_set_is_kept_from_held_out_samples_of_its_own_folder_alone(tmp_path):
    write_data(tmp_path / "x", MODALITIES, sample_names(4))
    write_data(tmp_path / "y", MODALITIES, sample_names(4))
    (tmp_path / "x/splits.json").write_text('{"held": ["0001"]}')
    config = DataConfig(
        train=[{"path": tmp_path / "x"}, {"path": tmp_path / "y"}], val=tmp_path / "x", val_split="held"
    )
    assert [len(store) for store in open_data(config).store.stores.values()] == [3, 4]

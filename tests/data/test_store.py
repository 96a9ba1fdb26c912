"""Any store serves: what a `Store` promises is all that masking and packing need."""

from __future__ import annotations

import numpy as np
import pytest

from fourm_engine.data.bad_files import BadFile
from fourm_engine.data.samples import MaskedSamples
from fourm_engine.data.store import MemoryStore, Store
from fourm_engine.masking.budgets import Budgets
from fourm_engine.masking.config import MaskingConfig
from fourm_engine.masking.pack import build_maskers
from fourm_engine.vocabulary import Vocabulary
from tests.fakes import fake_modalities, fake_tokenizers

MODALITIES = fake_modalities(["a", "b"])
SPECS = [modality.spec for modality in MODALITIES.values()]
TOKENS = {spec.name: spec.layout.num_tokens for spec in SPECS}
VOCABULARY = Vocabulary.build(SPECS)


def masked(store, seed=0):
    budgets = Budgets(MaskingConfig(input_tokens=4, target_tokens=4), SPECS)
    maskers = build_maskers(MODALITIES, fake_tokenizers(MODALITIES))
    return MaskedSamples(store, budgets, maskers, VOCABULARY, seed=seed)


def contents(value):
    return {name: np.full(tokens, value) for name, tokens in TOKENS.items()}


class Doubling(Store):
    """Computes what it loads; view v of sample "i" of "a" is full of 2 i + v, and "b" cannot be read."""

    names, views = ("0", "1", "2"), 2

    def __init__(self):
        self.skipped = []

    def has(self, row):
        return frozenset(TOKENS)

    def load(self, row, modality, view=0):
        if modality == "b":
            raise BadFile(f"{row}.b", modality, "unreachable")
        return np.full(TOKENS[modality], 2 * row + view)

    def skip(self, row, bad):
        self.skipped.append((row, bad.modality))


def modalities_of(sample):
    return set(sample.encoder[2]) | set(sample.decoder[2])


def test_samples_in_memory_are_masked_and_packed_without_any_file():
    data = masked(MemoryStore({str(i): contents(i) for i in range(4)}))
    assert len(data) == 4
    seen = [data[position] for position in range(4)]
    labels = [set(sample.labels.tolist()) for sample in seen]
    assert sorted(labels, key=min) == [{0}, {1}, {2}, {3}]  # each sample once an epoch, whole
    assert all((seen[p].labels == masked(data.store)[p].labels).all() for p in range(4))


def test_a_store_of_ones_own_gives_its_views_and_says_what_is_done_with_what_it_cannot_load():
    store = Doubling()
    data = masked(store)
    samples = [data[position] for position in range(60)]
    assert {int(label) for sample in samples for label in sample.labels} == {0, 1, 2, 3, 4, 5}
    assert all(modalities_of(sample) == {VOCABULARY["a"].index} for sample in samples)
    assert set(store.skipped) == {(row, "b") for row in range(3)}


def test_what_a_store_cannot_load_ends_the_run_unless_the_store_says_otherwise():
    class Strict(Doubling):
        skip = Store.skip

    data = masked(Strict())
    with pytest.raises(BadFile, match=r"\d\.b: b: unreachable"):
        [data[position] for position in range(20)]


def test_a_store_without_targets_is_an_error_that_counts_what_it_has():
    store = MemoryStore({"x": contents(1), "y": {"a": contents(1)["a"]}})
    assert store.report() == "2 samples; a 2, b 1"
    with pytest.raises(ValueError, match=r"none of the 2 samples has inputs and targets for any .*; 2 samples; $"):
        masked(MemoryStore({"x": {}, "y": {}}))

"""Packing keeps every token exactly once; batches have fixed shapes and padding at the end."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fourm_engine.batch import collate
from fourm_engine.masking.pack import build_maskers, pack, patchify
from fourm_engine.vocabulary import Vocabulary
from fourm_plugins import FeatureVector, Masked, Vector
from tests.fakes import fake_modalities, fake_tokenizers

MODALITIES = fake_modalities()
VOCABULARY = Vocabulary.build(m.spec for m in MODALITIES.values())
MASKERS = build_maskers(MODALITIES, fake_tokenizers(MODALITIES))


def contents(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {
        "a": rng.integers(0, 16, 16),
        "a@pixels": rng.random((16, 8), np.float32),
        "b": rng.integers(0, 5, 16),
        "words": rng.integers(22, 33, rng.integers(0, 11)),
    }


def mask_all(rng: np.random.Generator, values: dict[str, np.ndarray], budgets: list[int]) -> dict[str, Masked]:
    masked = {}
    for (name, x), shown, asked in zip(values.items(), budgets[:4], budgets[4:]):
        asked = 0 if name == "a@pixels" else asked
        ids = np.arange(len(x)) if x.ndim == 2 else x
        masked[name] = MASKERS[name].mask(ids, input_budget=shown, target_budget=asked, keep="random", rng=rng)
    return masked


@given(budgets=st.lists(st.integers(0, 12), min_size=8, max_size=8), seed=st.integers(0, 1000))
def test_packing_keeps_every_token_exactly_once(budgets, seed):
    rng = np.random.default_rng(seed)
    values = contents(rng)
    masked = mask_all(rng, values, budgets)
    sample = pack(VOCABULARY, masked, values)
    assert sample.encoder.shape == (4, sum(len(m.input_ids) for m in masked.values()))
    assert sample.decoder.shape == (4, sum(len(m.labels) for m in masked.values()))
    for name, m in masked.items():
        entry = VOCABULARY[name]
        ids, pos, mod, order = sample.encoder
        mine = mod == entry.index
        assert pos[mine].tolist() == m.input_pos.tolist()
        assert not order[mine].any()
        if name == "a@pixels":
            assert (ids[mine] == -1).all()
            if mine.any():
                np.testing.assert_array_equal(sample.continuous[name].rows(), values[name][m.input_pos])
        else:
            assert ids[mine].tolist() == (m.input_ids + entry.start).tolist()
            assert ((ids[mine] >= entry.start) & (ids[mine] < entry.stop)).all()
        ids, pos, mod, order = sample.decoder
        mine = mod == entry.index
        assert sample.labels[mine].tolist() == m.labels.tolist()
        assert pos[mine].tolist() == m.target_pos.tolist()
        assert order[mine].tolist() == m.target_order.tolist()
        assert ids[mine].tolist() == np.where(m.target_ids < 0, -1, m.target_ids + entry.start).tolist()


@given(
    budgets=st.lists(st.lists(st.integers(0, 12), min_size=8, max_size=8), min_size=1, max_size=4),
    seed=st.integers(0, 1000),
)
def test_batches_have_fixed_shapes_padding_at_the_end_and_targets_by_modality(budgets, seed):
    rng, samples = np.random.default_rng(seed), []
    for row in budgets:
        values = contents(rng)
        samples.append(pack(VOCABULARY, mask_all(rng, values, row), values))
    batch = collate(samples, VOCABULARY, 50, 60)
    assert batch.encoder.shape == (len(samples), 50)
    assert batch.decoder.shape == (len(samples), 60)
    kept = batch.continuous["a@pixels"]
    where = (batch.encoder.mod == VOCABULARY["a@pixels"].index).nonzero(as_tuple=True)
    assert kept.values.shape == (len(where[0]), 8)  # nothing but what is kept
    assert all(torch.equal(x, y) for x, y in zip((kept.row, kept.slot), where))
    assert list(batch.target_counts) == ["a", "b", "words"]
    for b, sample in enumerate(samples):
        for tokens, rows in ((batch.encoder, sample.encoder), (batch.decoder, sample.decoder)):
            n = rows.shape[1]
            for tensor, row in zip((tokens.ids, tokens.pos, tokens.mod, tokens.order), rows):
                assert tensor.dtype == torch.int64
                assert tensor[b, :n].tolist() == row.tolist()
            assert (tokens.mod[b, n:] == -1).all()
            assert (tokens.ids[b, n:] == -1).all()
        if "a@pixels" in sample.continuous:
            expected = sample.continuous["a@pixels"].rows()
            np.testing.assert_array_equal(kept.values[kept.row == b].numpy(), expected)
    assert len(batch.target_index) == len(batch.target_ids) == sum(batch.target_counts.values())
    mod = batch.decoder.mod.flatten()[batch.target_index]
    assert mod.tolist() == sorted(mod.tolist())
    start = 0
    for name, count in batch.target_counts.items():
        assert (mod[start : start + count] == VOCABULARY[name].index).all()
        start += count
    # Label for label, by where it stands.
    labels = {(b, i): x for b, s in enumerate(samples) for i, x in enumerate(s.labels.tolist())}
    found = {divmod(at, 60): x for at, x in zip(batch.target_index.tolist(), batch.target_ids.tolist())}
    assert found == labels


def test_a_sample_that_does_not_fit_names_the_setting():
    rng = np.random.default_rng(0)
    values = contents(rng)
    sample = pack(VOCABULARY, mask_all(rng, values, [4] * 8), values)
    with pytest.raises(ValueError, match=r"masking\.encoder_capacity"):
        collate([sample], VOCABULARY, 3, 60)


def test_patches_are_flattened_row_column_channel():
    spec = fake_modalities(["a@pixels"])["a@pixels"].spec  # 2 channels of 8x8 in patches of 2x2
    array = np.arange(2 * 8 * 8, dtype=np.float32).reshape(2, 8, 8)
    patches = patchify(array, spec)
    assert patches.shape == (16, spec.patch_dim)
    for token in range(16):
        row, column = divmod(token, 4)
        expected = [array[c, 2 * row + i, 2 * column + j] for i in range(2) for j in range(2) for c in range(2)]
        assert patches[token].tolist() == expected


def test_a_feature_vector_is_cut_into_equal_parts():
    spec = fake_modalities(["a@pixels"])["a@pixels"].spec
    spec = spec.model_copy(update={"layout": Vector(length=3), "array": FeatureVector(size=6)})
    assert patchify(np.arange(6, dtype=np.float32), spec).tolist() == [[0, 1], [2, 3], [4, 5]]


def test_a_sequence_without_its_tokenizer_is_an_error():
    with pytest.raises(ValueError, match="words: masking a sequence needs its tokenizer"):
        build_maskers(MODALITIES, {})

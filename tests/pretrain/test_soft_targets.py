"""Soft targets: the ids like the true one share its target, by the distances of their codes, in training alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fourm_engine.nn import heads as output
from fourm_engine.nn.heads import Heads, cross_entropy_sum
from fourm_engine.pretrain.soft_targets import alike, soft_targets
from fourm_engine.vocabulary import Entry, Vocabulary
from fourm_plugins.discovery import PluginError
from fourm_plugins.spec import Grid
from tests.fakes import fake_modalities, fake_tokenizers


@given(seed=st.integers(0, 99), perplexity=st.sampled_from([1.5, 4.0, 16.0]), size=st.sampled_from([5, 40, 1200]))
def test_the_shares_fall_with_distance_and_have_the_perplexity_asked_for(seed, perplexity, size):
    codes = torch.tensor(np.random.default_rng(seed).normal(size=(size, 3)), dtype=torch.float32)
    ids, shares = alike(codes, perplexity)
    assert (ids[:, 0] == torch.arange(size)).all()
    torch.testing.assert_close(shares.sum(1), torch.ones(size))
    assert (shares.diff(dim=1) <= 1e-7).all()
    assert all(len(row.unique()) == ids.shape[1] for row in ids[:20])
    if perplexity < size / 2:
        entropy = torch.special.entr(shares.double()).sum(1)
        assert entropy.exp().numpy() == pytest.approx(perplexity, rel=0.01)
    distances = torch.cdist(codes[:1], codes)[0]
    assert set(ids[0].tolist()) == set(distances.argsort()[: ids.shape[1]].tolist())


def test_equal_codes_share_equally_and_the_true_id_stays_among_them():
    ids, shares = alike(torch.zeros(9, 2), 4.0)
    assert shares.isfinite().all()
    assert (ids == torch.arange(9)[:, None]).any(1).all()
    torch.testing.assert_close(shares, torch.full_like(shares, 1 / shares.shape[1]))


def heads_of(sizes):
    entries, start = [], 0
    for i, (name, size) in enumerate(sizes.items()):
        entries.append(Entry(name, i, start, start + size, Grid(height=2, width=2), 0))
        start += size
    torch.manual_seed(0)
    heads = Heads(6, Vocabulary(entries))
    torch.nn.init.normal_(heads.weight)
    return heads


@pytest.mark.parametrize("way", ["fused", "plain", "chunks"])
def test_every_way_to_the_loss_is_that_of_dense_targets(monkeypatch, way):
    if way != "fused":
        monkeypatch.setattr(Heads, "_can_fuse", lambda *_: False)
    if way == "chunks":
        monkeypatch.setattr(output, "MAX_LOGITS", 40)
    heads, counts = heads_of({"a": 20, "b": 7}), {"a": 5, "b": 3}
    soft = {"a": alike(torch.randn(20, 3), 4.0)}
    y = torch.randn(1, 8, 6, requires_grad=True)
    ids = torch.tensor([3, 19, 0, 3, 7, 6, 0, 2])
    found = heads(y, torch.arange(8), ids, counts, soft=soft)
    (found["a"][0] * 2 + found["b"][0]).backward()
    gradients = y.grad.clone(), heads.weight.grad.clone()
    y.grad = heads.weight.grad = None
    dense = torch.zeros(5, 20).scatter_add(1, soft["a"][0][ids[:5]], soft["a"][1][ids[:5]])
    a = -(dense * heads.logits(y[0, :5], "a").log_softmax(1)).sum()
    b = torch.nn.functional.cross_entropy(heads.logits(y[0, 5:], "b"), ids[5:], reduction="sum")
    (a * 2 + b).backward()
    torch.testing.assert_close(found["a"][0], a)
    torch.testing.assert_close(found["b"][0], b)
    for one, other in zip(gradients, (y.grad, heads.weight.grad), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        hard = heads(y, torch.arange(8), ids, counts, by_token=True, soft=soft)
        torch.testing.assert_close(hard["a"][0].sum(), cross_entropy_sum(y[0, :5], heads.slices()["a"], ids[:5]))


def with_codes(monkeypatch, vectors):
    """A tokenizer of 16 ids with these codes, and one of words, without."""
    tokenizers = fake_tokenizers(fake_modalities(["a", "words"]))
    monkeypatch.setattr(tokenizers["a"], "code_vectors", lambda: vectors, raising=False)
    return tokenizers


def test_only_modalities_that_are_named_have_soft_targets_and_they_need_codes(monkeypatch):
    tokenizers = with_codes(monkeypatch, np.eye(16, dtype=np.float32))
    assert soft_targets(tokenizers, {}) == {}
    assert list(soft_targets(tokenizers, {"a": 2.0})) == ["a"]
    for name, why in (("words", "tokens of 'words' have no codes"), ("aa", "'aa'")):
        with pytest.raises(ValueError, match=rf"loss\.soft_targets: .*{why}"):
            soft_targets(tokenizers, {name: 2.0})


@pytest.mark.parametrize("vectors", [np.eye(3, dtype=np.float32), np.full((16, 2), np.nan, np.float32), [[0.0]] * 16])
def test_codes_that_are_of_no_use_are_their_packages_fault(monkeypatch, vectors):
    with pytest.raises(PluginError, match="code_vectors"):
        soft_targets(with_codes(monkeypatch, vectors), {"a": 2.0})

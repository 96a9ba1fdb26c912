"""Probes: a reference of each by hand, and what they may not do: see validation samples, or change the encoder."""

from __future__ import annotations

import numpy as np
import torch

from fourm_engine.features import probes
from fourm_engine.features.probes import Labelled, Linear


def blobs(n: int, classes: int, *, seed: int, spread: float = 1.0) -> Labelled:
    """Classes around fixed centres."""
    centres = torch.randn(classes, 6, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=generator)
    x = centres[labels] + spread * torch.randn(n, 6, generator=generator)
    return Labelled([str(i) for i in range(n)], labels, x)


def test_knn_is_the_vote_of_the_nearest_weighted_by_their_cosine():
    train, val = blobs(50, 3, seed=0), blobs(8, 3, seed=1)
    scores = probes.knn(train, val, 3, k=7, temperature=0.07)
    for x, row in zip(val.pooled, scores, strict=True):
        cosines = torch.nn.functional.cosine_similarity(train.pooled, x[None])
        nearest = cosines.argsort(descending=True)[:7].tolist()
        votes = np.zeros(3)
        for i in nearest:
            votes[train.labels[i]] += np.exp(cosines[i].item() / 0.07)
        np.testing.assert_allclose(row / row.sum(), votes / votes.sum(), rtol=1e-4, atol=1e-6)


def test_linear_is_the_minimum_of_its_loss():
    train = blobs(60, 3, seed=0)
    fitted = Linear(train, 3, 0.1)
    x = (train.pooled.double() - fitted.mean) / fitted.scale
    weight, bias = fitted.weight.requires_grad_(), fitted.bias.requires_grad_()
    loss = torch.nn.functional.cross_entropy(x @ weight.T + bias, train.labels) + 0.05 * weight.square().sum()
    loss.backward()
    assert weight.grad.abs().max() < 1e-5
    assert bias.grad.abs().max() < 1e-5


def test_the_weight_decay_is_chosen_on_training_samples_alone():
    train, val = blobs(80, 3, seed=0, spread=2.0), blobs(400, 3, seed=1, spread=2.0)
    scores, facts = probes.linear(train, val, 3, seed=0)
    wrong = Labelled(val.names, (val.labels + 1) % 3, val.pooled)
    again, same = probes.linear(train, wrong, 3, seed=0)
    assert facts == same
    assert torch.equal(scores, again)
    weakest = probes.accuracy(Linear(train, 3, 1e-9).scores(val), val.labels)
    assert probes.accuracy(scores, val.labels) >= weakest - 0.02
    assert probes.accuracy(scores, val.labels) > 0.5 > probes.accuracy(again, wrong.labels)


def test_few_shots_are_so_many_of_each_class_and_another_seed_draws_others():
    train = blobs(60, 3, seed=0)
    rows = probes.drawn(train.labels, 3, 4, seed=0)
    assert torch.bincount(train.labels[rows]).tolist() == [4, 4, 4]
    assert len(set(rows.tolist())) == 12
    assert set(rows.tolist()) != set(probes.drawn(train.labels, 3, 4, seed=1).tolist())
    val = blobs(200, 3, seed=1, spread=0.3)
    accuracies = [probes.accuracy(probes.few_shot(train, val, 3, n, seed=0), val.labels) for n in (1, 10)]
    assert accuracies[0] < accuracies[1]


def test_a_share_of_the_samples_has_its_tokens_without_a_copy():
    tokens, valid = np.arange(24, dtype=np.float16).reshape(4, 2, 3), np.eye(4, 2, dtype=bool)
    whole = Labelled(list("abcd"), torch.arange(4), torch.zeros(4, 3), tokens, valid)
    part = whole.at(torch.tensor([3, 1, 2])).at(torch.tensor([2, 0]))
    assert part.names == ["c", "d"]
    assert part.tokens is tokens
    x, there = probes._tokens(part, slice(0, 2), "cpu")
    np.testing.assert_array_equal(x, tokens[[2, 3]])
    np.testing.assert_array_equal(there, valid[[2, 3]])


def test_metrics():
    scores = torch.tensor([[3.0, 2, 1], [3, 2, 1], [1, 2, 3], [1, 3, 2]])
    labels = torch.tensor([0, 1, 2, 2])
    assert probes.accuracy(scores, labels) == 0.5
    assert probes.accuracy(scores, labels, top=2) == 1.0
    assert abs(probes.mean_class_accuracy(scores, labels) - (1 + 0 + 0.5) / 3) < 1e-6
    held = probes.held_out(torch.tensor([0] * 10 + [1] * 5 + [2]), 3, 0.2, 0)
    assert [int(held[part].sum()) for part in (slice(0, 10), slice(10, 15), slice(15, 16))] == [2, 1, 0]

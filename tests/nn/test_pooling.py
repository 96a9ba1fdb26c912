"""Attentive pooling: tokens that are there decide, padding does not."""

from __future__ import annotations

import torch

from fourm_engine.nn.pooling import AttentivePooling


def pooling(**options) -> AttentivePooling:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AttentivePooling(16, 4, **options).double()


def test_padding_changes_nothing_and_every_token_that_is_there_counts():
    x = torch.randn(2, 5, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    valid = torch.tensor([[True] * 5, [True, True, True, False, False]])
    pool = pooling(queries=3)
    pooled = pool(x, valid)
    assert pooled.shape == (2, 16)
    torch.testing.assert_close(pool(x[1:, :3], valid[1:, :3]), pooled[1:])
    for i in range(3):
        changed = x.clone()
        changed[1, i] = changed[1, i].flip(0)
        assert not torch.allclose(pool(changed, valid)[1], pooled[1])
    x[1, 3:] = float("inf")
    torch.testing.assert_close(pool(x.nan_to_num(posinf=1e6), valid), pooled)


def test_a_sample_without_tokens_gets_a_constant_and_finite_gradients():
    pool = pooling()
    x = torch.randn(2, 4, 16, dtype=torch.float64, requires_grad=True)
    pooled = pool(x, torch.zeros(2, 4, dtype=torch.bool))
    torch.testing.assert_close(pooled, pool.attn.proj.bias.expand(2, -1))
    pooled.sum().backward()
    assert x.grad is not None
    assert not x.grad.any()


def test_it_learns_to_find_the_token_that_matters():
    """Which class is written in one token among many, that a mean over tokens hides in noise."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(256, 12, 16, generator=generator)
    label = torch.randint(2, (256,), generator=generator)
    at = torch.randint(12, (256,), generator=generator)
    x[range(256), at, 0] = 6.0  # marks the token; its second number is the class
    x[range(256), at, 1] = torch.where(label == 1, 3.0, -3.0)
    pool, head = pooling().float(), torch.nn.Linear(16, 2)
    valid = torch.ones(256, 12, dtype=torch.bool)
    optimiser = torch.optim.AdamW([*pool.parameters(), *head.parameters()], lr=1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(head(pool(x, valid)), label)
        loss.backward()
        optimiser.step()
    assert (head(pool(x, valid)).argmax(1) == label).float().mean() > 0.95

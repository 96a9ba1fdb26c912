"""Attention equals its formula, written out; a query that sees nothing gets 0, and no NaN reaches a gradient."""

import pytest
import torch
from torch.nn import functional as F

from fourm_engine.nn import attention
from fourm_engine.nn.attention import CrossAttention, SelfAttention, attend, guard_mask


def slow_attention(q, k, v, mask, heads):
    """softmax(q kᵀ / √d) v one query and head at a time; q (B, M, D), k and v (B, N, D), mask (B, M, N)."""
    out = torch.zeros_like(q)
    d = q.shape[-1] // heads
    for b in range(q.shape[0]):
        for h in range(heads):
            part = slice(h * d, (h + 1) * d)
            for m in range(q.shape[1]):
                seen = mask[b, m].nonzero()[:, 0]
                if len(seen):
                    weights = (k[b, seen, part] @ q[b, m, part] / d**0.5).softmax(0)
                    out[b, m, part] = weights @ v[b, seen, part]
    return out


def norm_heads(x, norm, heads):
    """LayerNorm over each head's dimension of (B, N, D)."""
    return torch.cat([F.layer_norm(p, p.shape[-1:], norm.weight, norm.bias, 1e-6) for p in x.chunk(heads, -1)], -1)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_self_attention_is_the_formula(bias, qk_norm):
    torch.manual_seed(0)
    layer = randomise(SelfAttention(24, 3, bias=bias, qk_norm=qk_norm))
    x, mask = torch.randn(2, 5, 24), torch.rand(2, 5, 5) < 0.6
    mask[1, 2] = False
    q, k, v = F.linear(x, layer.qkv.weight, layer.qkv.bias).split(24, -1)
    if qk_norm:
        q, k = norm_heads(q, layer.q_norm, 3), norm_heads(k, layer.k_norm, 3)
    expected = layer.proj(slow_attention(q, k, v, mask, 3))
    torch.testing.assert_close(layer(x, *guard_mask(mask[:, None])), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("qk_norm", [False, True])
def test_cross_attention_is_the_formula(qk_norm):
    torch.manual_seed(0)
    layer = randomise(CrossAttention(24, 3, bias=True, qk_norm=qk_norm))
    x, context, valid = torch.randn(2, 4, 24), torch.randn(2, 6, 24), torch.rand(2, 6) < 0.5
    q = layer.q(x)
    k, v = layer.kv(context).split(24, -1)
    if qk_norm:
        q, k = norm_heads(q, layer.q_norm, 3), norm_heads(k, layer.k_norm, 3)
    expected = layer.proj(slow_attention(q, k, v, valid[:, None].expand(2, 4, 6), 3))
    got = layer(x, context, *guard_mask(valid[:, None, None]))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_in_inference_a_full_mask_is_left_out_and_changes_no_bit():
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, n, 16) for n in (40, 70, 70))
    full = torch.ones(2, 1, 1, 70, dtype=torch.bool)
    told = attend(q, k, v, *guard_mask(full))
    with torch.inference_mode():
        assert guard_mask(full) == (None, None)
        assert torch.equal(attend(q, k, v, *guard_mask(full)), told)
        assert guard_mask(full.index_fill(3, torch.tensor([69]), False))[0] is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_masks_for_gpus_and_for_a_cpu_come_to_the_same(monkeypatch, dtype):
    torch.manual_seed(0)
    q, k, v = (torch.randn(4, 3, 40, 16, dtype=dtype, requires_grad=True) for _ in range(3))
    mask = torch.rand(4, 1, 40, 40) < 0.6
    mask[1, 0, 2], mask[2] = False, False
    on_cpu = attend(q, k, v, *guard_mask(mask))
    monkeypatch.setattr(attention, "ZERO_ON", ())
    on_gpu = attend(q, k, v, *guard_mask(mask))
    assert torch.equal(on_gpu, on_cpu)
    for one, other in zip(*(torch.autograd.grad(out.square().sum(), (q, k, v)) for out in (on_gpu, on_cpu))):
        torch.testing.assert_close(one, other)


def test_a_query_that_sees_nothing_gets_exactly_the_bias_of_the_projection():
    torch.manual_seed(0)
    layer = randomise(CrossAttention(16, 2, bias=True, qk_norm=True))
    x, context = torch.randn(2, 4, 16, requires_grad=True), torch.randn(2, 6, 16, requires_grad=True)
    valid = torch.tensor([[True, False, True, False, False, False], [False] * 6])
    out = layer(x, context, *guard_mask(valid[:, None, None]))
    assert torch.equal(out[1], layer.proj.bias.expand(4, 16))
    assert not torch.allclose(out[0], layer.proj.bias.expand(4, 16))
    out.square().sum().backward()
    for tensor in (x, context, *layer.parameters()):
        assert tensor.grad.isfinite().all()
    assert (x.grad[1] == 0).all()
    assert (context.grad[1] == 0).all()
    assert (x.grad[0] != 0).any()


def randomise(layer):
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn_like(p) * (0.3 if p.dim() > 1 else 1.0))
    return layer

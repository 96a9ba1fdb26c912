"""Which kernels attention may use."""

import pytest
import torch

from fourm_engine.nn import attention
from fourm_engine.nn.attention import CUDNN_TILE, attend
from fourm_engine.nn.blocks import EncoderBlock


@pytest.fixture
def allowed(monkeypatch):
    """Whether cuDNN was allowed, call by call."""
    monkeypatch.setattr(attention, "CUDNN_ON", ("cpu",))
    calls, sdpa = [], torch.nn.functional.scaled_dot_product_attention

    def spy(*inputs, **options):
        calls.append(torch.backends.cuda.cudnn_sdp_enabled())
        return sdpa(*inputs, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    return calls


@pytest.mark.parametrize(
    ("queries", "keys", "training", "cudnn"),
    [
        (CUDNN_TILE, 2 * CUDNN_TILE, True, True),
        (CUDNN_TILE, CUDNN_TILE + 64, True, False),
        (1, CUDNN_TILE, True, False),
        (1, CUDNN_TILE + 64, False, False),
        (2 * CUDNN_TILE, CUDNN_TILE, False, True),
    ],
)
def test_cudnn_gets_whole_tiles_alone(allowed, queries, keys, training, cudnn):
    q, k = torch.randn(1, 2, queries, 8), torch.randn(1, 2, keys, 8)
    with torch.set_grad_enabled(training):
        attend(q, k, k, torch.ones(1, 1, 1, keys, dtype=torch.bool), None)
    assert allowed == [cudnn]


def test_a_traced_block_computes_the_same_without_cudnn(monkeypatch):
    monkeypatch.setattr(attention, "CUDNN_ON", ("cpu",))
    block = EncoderBlock(16, 2, mlp="gelu", mlp_ratio=2, bias=False, qk_norm=False)
    x, mask = torch.randn(2, 5, 16), torch.ones(2, 1, 1, 5, dtype=torch.bool)
    expected = block(x, mask)
    traced = torch.compile(block, fullgraph=True, dynamic=False, backend="aot_eager")
    torch.testing.assert_close(traced(x, mask), expected)

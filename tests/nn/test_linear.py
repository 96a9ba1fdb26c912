"""A few rows are multiplied by a large weight in the order that is quicker, to the same result."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from fourm_engine.nn.linear import FEW, LARGE, Linear, linear


@pytest.mark.parametrize("rows", [1, FEW.start, FEW.stop - 1, FEW.stop])
@pytest.mark.parametrize("width", [24, LARGE // 24 + 5])
def test_the_result_is_that_of_one_product(rows, width):
    layer, x = Linear(24, width), torch.randn(rows, 1, 24)
    whole = F.linear(x, layer.weight, layer.bias)
    assert torch.equal(layer(x), whole)  # gradients may be wanted
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        assert layer(x).is_contiguous()
        torch.testing.assert_close(layer(x), whole)
        torch.testing.assert_close(linear(x[:, 0], layer.weight), whole[:, 0] - layer.bias)
    assert counter.get_total_flops() == 3 * 2 * rows * 24 * width


def test_only_a_few_rows_and_large_weights_change_the_order(monkeypatch):
    usual = []
    monkeypatch.setattr(F, "linear", lambda x, w, bias=None: usual.append((len(x), *w.shape)) or x @ w.T)
    large, small, narrowing = torch.randn(512, 256), torch.randn(256, 256), torch.randn(256, 512)
    with torch.inference_mode():
        for rows in (1, 4, FEW.stop):
            linear(torch.randn(rows, 256), large)
        linear(torch.randn(4, 256), small)
        linear(torch.randn(4, 512), narrowing)
    linear(torch.randn(4, 256), large)
    assert usual == [(1, 512, 256), (FEW.stop, 512, 256), (4, 256, 256), (4, 256, 512), (4, 512, 256)]

"""A few rows are multiplied by parts of a weight, to the same result."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from fourm_engine.nn.linear import FEW, PART, Linear, linear


@pytest.mark.parametrize("rows", [1, FEW.start, FEW.stop - 1, FEW.stop])
@pytest.mark.parametrize("width", [PART, 2 * PART + 5])
def test_the_result_is_that_of_the_whole_weight(rows, width):
    layer, x = Linear(24, width), torch.randn(rows, 1, 24)
    whole = F.linear(x, layer.weight, layer.bias)
    assert torch.equal(layer(x), whole)  # gradients may be wanted: one product
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        torch.testing.assert_close(layer(x), whole)
        torch.testing.assert_close(linear(x[:, 0], layer.weight), whole[:, 0] - layer.bias)
    assert counter.get_total_flops() == 2 * 2 * rows * 24 * width


def test_each_of_a_few_rows_meets_a_part_of_the_weight_while_a_cache_holds_it(monkeypatch):
    parts = []
    monkeypatch.setattr(F, "linear", lambda x, w, bias=None: parts.append(len(w)) or x @ w.T)
    weight = torch.randn(2 * PART + 5, 8)
    with torch.inference_mode():
        linear(torch.randn(4, 8), weight)
        assert parts == [PART, PART, 5]
        linear(torch.randn(1, 8), weight)
        linear(torch.randn(FEW.stop, 8), weight)
    linear(torch.randn(4, 8), weight)
    assert parts[3:] == [2 * PART + 5] * 3

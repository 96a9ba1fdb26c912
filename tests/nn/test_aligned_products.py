"""Products whose rows suit tensor cores."""

import copy

import pytest
import torch

from fourm_engine import device
from fourm_engine.nn.blocks import ALIGNED, MANY_ROWS, SwiGLU


@pytest.mark.parametrize("bias", [False, True])
def test_an_mlp_whose_width_suits_no_tensor_core_computes_the_same_on_a_gpu(bias, monkeypatch):
    torch.manual_seed(0)
    mlp = SwiGLU(40, ratio=4, bias=bias)
    assert mlp.fc1.out_features % ALIGNED
    aligned = copy.deepcopy(mlp)
    x = torch.randn(2, MANY_ROWS, 40)
    expected = mlp(x)
    expected.square().sum().backward()
    monkeypatch.setattr(device, "HOST_TYPES", ())
    products, linear = [], torch.nn.functional.linear
    monkeypatch.setattr("torch.nn.functional.linear", lambda *of: [products.append(of[1].shape), linear(*of)][1])
    result = aligned(x)
    result.square().sum().backward()
    assert all(side % ALIGNED == 0 for shape in products for side in shape if side != 40)
    torch.testing.assert_close(result, expected)
    for one, other in zip(aligned.parameters(), mlp.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)

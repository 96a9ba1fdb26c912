"""The version that speed is compared with computes what the model computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.obvious import Obvious, dense
from benchmarks.published import Samples
from fourm_engine.nn.config import ModelConfig
from fourm_engine.nn.transformer import Transformer


@pytest.mark.parametrize("variant", [{"mlp": "swiglu", "qk_norm": True}, {"mlp": "gelu", "bias": True}])
def test_losses_and_gradients_of_the_obvious_step_are_those_of_the_fast_one(variant):
    samples = Samples(tokens=48, side=4, shrink=16)
    batch = samples.batch(5, np.random.default_rng(0))
    torch.manual_seed(0)
    config = ModelConfig(width=32, encoder_blocks=2, decoder_blocks=2, heads=2, **variant)
    model = Transformer(config, samples.vocabulary)
    obvious = Obvious(model, samples.vocabulary, batch.encoder.ids.shape[1], batch.decoder.ids.shape[1])
    gradients = []
    results = model(batch), obvious(dense(batch, samples.vocabulary))
    for losses in results:
        model.zero_grad()
        sum(total for total, _ in losses.values()).backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    (ours, theirs), (one, other) = results, gradients
    assert {name: count for name, (_, count) in ours.items()} == {name: count for name, (_, count) in theirs.items()}
    assert sum(count > 0 for _, count in ours.values()) > 3
    for name, (total, _) in ours.items():
        torch.testing.assert_close(theirs[name][0], total, rtol=1e-5, atol=1e-5)
    assert one.keys() == other.keys()
    for name, gradient in one.items():
        torch.testing.assert_close(other[name], gradient, rtol=1e-3, atol=1e-4, msg=lambda m, name=name: f"{name}: {m}")

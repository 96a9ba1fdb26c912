"""FLOPs as reckoned, against those that torch counts while the network works."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fourm_engine.nn.flops import forward_flops, training_flops
from fourm_engine.nn.transformer import Transformer
from tests.nn.conftest import small_config


def reckoned(config, vocabulary, batch):
    (B, N), M = batch.encoder.mod.shape, batch.decoder.mod.shape[1]
    patches = {name: len(patches.values) for name, patches in batch.continuous.items()}
    return forward_flops(config, vocabulary, B=B, N=N, M=M, targets=batch.target_counts, patches=patches)


@pytest.mark.parametrize(
    "variant",
    [
        {"mlp": "swiglu"},
        {"mlp": "gelu", "bias": True, "mlp_ratio": 3.3},
        {"encoder_blocks": 1, "decoder_blocks": 3, "qk_norm": True},
        {"registers": 3},
    ],
)
def test_the_flops_of_a_training_step_are_those_that_torch_counts(vocabulary, batch, variant):
    config = small_config(**variant)
    model = Transformer(config, vocabulary)
    with sdpa_kernel(SDPBackend.MATH):  # the kernels that torch's counter knows on every device
        with FlopCounterMode(display=False) as forward:
            loss = sum(total for total, _ in model(batch).values())
        with FlopCounterMode(display=False) as backward:
            loss.backward()
    flops = reckoned(config, vocabulary, batch)
    assert flops["patches"] > 0
    assert sum(flops.values()) == forward.get_total_flops()
    assert training_flops(flops) == forward.get_total_flops() + backward.get_total_flops()


def test_each_part_has_its_flops(vocabulary, batch):
    """As many as torch counts in the modules of that part."""
    config = small_config()
    model = Transformer(config, vocabulary)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(batch)
    counted = {name: sum(flops.values()) for name, flops in counter.get_flop_counts().items()}
    flops = reckoned(config, vocabulary, batch)
    for part in ("encoder", "decoder"):
        blocks = [f"Transformer.{part}.{index}" for index in range(2)]
        assert flops[part] == sum(counted[name] for name in blocks)
    assert flops["context"] == counted["Transformer.context_proj"]
    assert flops["heads"] == counted["Transformer.heads"]

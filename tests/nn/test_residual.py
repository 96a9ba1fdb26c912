"""A residual stream in bf16."""

import copy

import pytest
import torch

from fourm_engine.nn.transformer import Transformer
from fourm_engine.nn.wrappers import checkpoint_blocks, halve_residual
from fourm_engine.train.parallel import build_model
from tests.nn.conftest import lively, small_config
from tests.train.blocks_task import BlocksTask
from tests.train.toy_task import config


@pytest.mark.parametrize("checkpointing", ["none", "full"])
def test_a_residual_stream_in_bf16_learns_nearly_the_same_and_is_bf16_from_block_to_block(
    vocabulary, batch, checkpointing
):
    torch.manual_seed(0)
    full = lively(Transformer(small_config(), vocabulary))
    half, types = copy.deepcopy(full), []
    blocks = [*half.encoder, *half.decoder]
    halve_residual(blocks)
    checkpoint_blocks(blocks, checkpointing)
    for block in blocks:
        block.register_forward_hook(lambda module, inputs, output: types.append(output.dtype))
    losses = []
    for model in (full, half):
        with torch.autocast("cpu", torch.bfloat16):
            loss = sum(total / count for total, count in model(batch).values() if count)
        loss.backward()
        losses.append(loss.item())
    assert types == [torch.bfloat16] * len(blocks)
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    for (name, one), other in zip(full.named_parameters(), half.parameters(), strict=True):
        assert other.grad.dtype == torch.float32
        assert (one.grad - other.grad).norm() <= 0.2 * one.grad.norm(), name


@pytest.mark.parametrize(("residual", "bf16"), [("bf16", True), ("fp32", True), ("bf16", False)])
def test_the_setting_holds_for_runs_in_bf16_alone(residual, bf16):
    model = build_model(BlocksTask(), config(residual=residual), torch.device("cpu"), seed=0, bf16=bf16)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        out = model.blocks[0](torch.randn(2, 3, 8), None)
    assert out.dtype == (torch.bfloat16 if residual == "bf16" and bf16 else torch.float32)

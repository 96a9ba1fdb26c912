"""What a network begins with depends on the seed and the names of its parameters alone."""

import logging

import pytest
import torch
from torch import nn

from fourm_engine.nn import init
from fourm_engine.nn.init import Initial
from fourm_engine.nn.memory import activation_bytes
from fourm_engine.nn.transformer import Transformer
from fourm_engine.nn.wrappers import checkpoint_blocks, compile_blocks
from tests.nn.conftest import small_config


@pytest.mark.parametrize("kind", ["gaussian", "uniform", "constant"])
@pytest.mark.parametrize("shape", [(23,), (23, 5), (23, 2, 3)])
def test_rows_drawn_in_parts_are_those_drawn_at_once(monkeypatch, kind, shape):
    monkeypatch.setattr(init, "BLOCK", 20)  # several blocks, which the parts cut through
    how, whole = Initial(kind, 0.3), torch.empty(shape)
    how.fill(whole, "a", seed=5)
    parts = [torch.empty(stop - start, *shape[1:]) for start, stop in ((0, 7), (7, 7), (7, 20), (20, 23))]
    for part, first in zip(parts, (0, 7, 7, 20), strict=True):
        how.fill(part, "a", seed=5, first=first, total=23)
    assert torch.equal(torch.cat(parts), whole)


def test_each_name_and_seed_has_numbers_of_its_own_of_the_stated_size():
    how, drawn = Initial("gaussian", 0.5), [torch.empty(200, 100) for _ in range(4)]
    for tensor, (name, seed) in zip(drawn, [("a", 1), ("b", 1), ("a", 2), ("a", 1)], strict=True):
        how.fill(tensor, name, seed=seed)
    assert torch.equal(drawn[0], drawn[3])
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert drawn[0].std() == pytest.approx(0.5, rel=0.05)
    uniform = torch.empty(200, 100)
    Initial("uniform", 0.5).fill(uniform, "a", seed=1)
    assert uniform.abs().max() == pytest.approx(0.5, rel=0.01)


def test_every_parameter_of_the_model_has_initial_numbers(vocabulary):
    model = Transformer(small_config(mlp="gelu", bias=True, qk_norm=True), vocabulary)
    for parameter in model.parameters():
        nn.init.constant_(parameter, torch.nan)
    model.initialise(seed=3)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    again = Transformer(small_config(mlp="gelu", bias=True, qk_norm=True), vocabulary)
    again.initialise(seed=3)
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), again.parameters(), strict=True))


@pytest.fixture
def gradients(vocabulary, batch):
    """Computes loss and gradients of the small model after a change, and the bytes kept for the backward pass."""

    def measure(change):
        torch.manual_seed(0)
        model = Transformer(small_config(encoder_blocks=3, decoder_blocks=3), vocabulary)
        change([*model.encoder, *model.decoder])
        kept = {}

        def keep(tensor):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = sum(total for total, _ in model(batch).values())
        loss.backward()
        names = dict(model.named_parameters())
        assert names.keys() == model.state_dict().keys()
        kept = sum(storage.nbytes() for storage in kept.values())
        return loss.detach(), {name: parameter.grad for name, parameter in names.items()}, kept

    return measure


def test_checkpointed_blocks_compute_the_same_and_keep_less(gradients):
    measured = {how: gradients(lambda blocks, how=how: checkpoint_blocks(blocks, how)) for how in ("none", "full")}
    selective = gradients(lambda blocks: checkpoint_blocks(blocks, "selective"))
    for loss, grads, _ in (measured["full"], selective):
        assert torch.equal(loss, measured["none"][0])
        assert all(torch.equal(grad, measured["none"][1][name]) for name, grad in grads.items())
    assert measured["full"][2] < measured["none"][2] / 2


def test_the_estimate_of_memory_knows_what_is_computed_again(vocabulary):
    def estimate(how):
        shape = {"B": 8, "N": 64, "M": 64, "targets": {}, "bf16": True}
        return sum(activation_bytes(small_config(encoder_blocks=9), vocabulary, **shape, checkpointing=how).values())

    assert estimate("none") > estimate("selective") > estimate("full")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["none", "selective", "full"])
def test_compiled_blocks_compute_the_same_whatever_they_keep(gradients, how):
    plain = gradients(lambda blocks: None)
    loss, grads, _ = gradients(lambda blocks: [checkpoint_blocks(blocks, how), compile_blocks(blocks)])
    torch.testing.assert_close(loss, plain[0])
    torch.testing.assert_close(grads, plain[1], rtol=1e-4, atol=1e-4)


def test_torch_says_nothing_of_blocks_in_which_nothing_is_done_in_place(caplog):
    checkpoint_blocks([nn.Linear(2, 2)], "selective")
    log = logging.getLogger("torch._higher_order_ops.wrap")
    log.warning("\nDetected that context_fn is passed to torch.utils.checkpoint under torch.compile.\n")
    log.warning("anything else")
    assert [record.getMessage() for record in caplog.records] == ["anything else"]

import pytest
import torch

from fourm_engine.nn import attention
from fourm_engine.nn.memory import activation_bytes
from fourm_engine.nn.transformer import Transformer
from tests.nn.conftest import small_config


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("variant", [{"mlp": "swiglu"}, {"mlp": "gelu", "bias": True}, {"registers": 5}])
def test_the_estimate_of_activations_is_within_a_quarter_of_what_torch_keeps(
    vocabulary, batch, variant, bf16, monkeypatch
):
    monkeypatch.setattr(attention, "ZERO_ON", ())  # as on a GPU
    config = small_config(width=128, encoder_blocks=4, decoder_blocks=4, **variant)
    model = Transformer(config, vocabulary)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage  # held, so that no address is used twice
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=bf16, cache_enabled=False),
    ):
        model(batch)
    copies = (
        {id(p): 2 * p.numel() for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n} if bf16 else {}
    )
    measured = sum(storage.nbytes() for storage in kept.values()) - sum(copies.values())
    (B, N), M = batch.encoder.mod.shape, batch.decoder.mod.shape[1]
    parts = activation_bytes(config, vocabulary, B=B, N=N, M=M, targets=batch.target_counts, bf16=bf16)
    assert sum(parts.values()) == pytest.approx(measured, rel=0.25)

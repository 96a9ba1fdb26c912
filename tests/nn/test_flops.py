"""FLOPs as reckoned, against those that torch counts while the network works."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fourm_engine.nn.adapt import add_lora, freeze, freeze_known
from fourm_engine.nn.flops import TrainedWeights, forward_flops, training_flops, training_flops_of
from fourm_engine.nn.transformer import Transformer
from fourm_engine.nn.wrappers import checkpoint_blocks
from fourm_engine.vocabulary import Vocabulary
from tests.nn.conftest import small_config


def sizes(batch):
    (B, N), M = batch.encoder.mod.shape, batch.decoder.mod.shape[1]
    patches = {name: len(patches.values) for name, patches in batch.continuous.items()}
    return {"B": B, "N": N, "M": M, "targets": batch.target_counts, "patches": patches}


def reckoned(config, vocabulary, batch):
    return forward_flops(config, vocabulary, **sizes(batch))


def counted(model, batch):
    """Of a step, by torch."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # kernels that torch's counter knows
        sum(total for total, _ in model(batch).values()).backward()
    return counter.get_total_flops()


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


ALL = ["embedding", "encoder", "encoder_norm", "context_proj", "decoder", "decoder_norm", "heads"]


@pytest.mark.parametrize("variant", [{"mlp": "gelu", "bias": True, "qk_norm": True, "registers": 2}, {"mlp": "swiglu"}])
@pytest.mark.parametrize(
    ("frozen", "lora"),
    [
        ([], None),
        (["encoder"], None),
        (["embedding", "encoder", "encoder_norm"], None),  # nothing learns below the decoder's context
        (["embedding", "encoder", "encoder_norm", "context_proj", "decoder.0"], None),
        (["embedding.*_table", "embedding.modality", "decoder.*.mlp", "heads"], None),
        (["encoder.*.attn", "decoder.*.cross_attn.kv", "context_proj"], None),
        (ALL, ["encoder", "decoder"]),
        (ALL, ["decoder.1.cross_attn.q"]),
        (ALL, ["encoder.1.mlp.fc1", "decoder.0.self_attn.proj"]),
        (["encoder"], ["encoder.1.attn.qkv"]),
    ],
)
def test_where_a_part_is_frozen_the_flops_are_those_that_torch_counts(vocabulary, batch, variant, frozen, lora):
    config = small_config(**variant)
    model = Transformer(config, vocabulary)
    freeze(model, [*frozen, *(["registers"] if frozen == ALL and config.registers else [])], setting="freeze")
    if lora is not None:
        add_lora(model, rank=3, alpha=1.0, matrices=lora)
    found = training_flops_of(TrainedWeights.of(model), config, vocabulary, **sizes(batch))
    assert found == counted(model, batch)
    assert (found == training_flops(reckoned(config, vocabulary, batch))) == (not frozen)


def test_new_rows_alone_have_the_flops_that_torch_counts(vocabulary, batch):
    config, known = small_config(), Vocabulary(vocabulary.entries[:-1])
    model = Transformer(config, vocabulary)
    freeze_known(model, known)
    assert training_flops_of(TrainedWeights.of(model), config, vocabulary, **sizes(batch)) == counted(model, batch)


def test_what_is_computed_again_to_save_memory_is_not_counted(vocabulary, batch):
    config = small_config()
    found = {}
    for how in ("none", "selective", "full"):
        model = Transformer(config, vocabulary)
        checkpoint_blocks((*model.encoder, *model.decoder), how)
        found[how] = counted(model, batch)
        assert training_flops_of(TrainedWeights.of(model), config, vocabulary, **sizes(batch)) == found["none"]
    flops = reckoned(config, vocabulary, batch)
    assert found["selective"] == found["none"] < found["full"] <= found["none"] + flops["encoder"] + flops["decoder"]

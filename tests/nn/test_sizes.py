"""The models have exactly the published numbers of parameters; a configuration cannot contradict itself."""

import pytest
import torch
from pydantic import ValidationError

from fourm_engine.nn.transformer import ModelConfig, Transformer
from fourm_plugins.spec import Grid, Sequence
from tests.nn.conftest import make_vocabulary, small_config

GRID = Grid(height=14, width=14)
PUBLISHED = make_vocabulary(
    [
        ("rgb@224", 0, GRID, 768),
        ("tok_rgb", 16384, GRID, 0),
        ("tok_depth", 8192, GRID, 0),
        ("tok_normal", 8192, GRID, 0),
        ("tok_semseg", 4096, GRID, 0),
        ("tok_clip", 8192, GRID, 0),
        ("caption", 30000, Sequence(max_tokens=256), 0),
        ("det", 30000, Sequence(max_tokens=256), 0),
    ]
)


@pytest.mark.parametrize(
    ("size", "backbone", "total"),
    [
        ("Ti", 24_935_424, 146_257_920),
        ("S", 59_000_832, 220_764_160),
        ("B", 198_829_056, 441_474_048),
        ("L", 705_744_896, 1_029_271_552),
        ("XL", 2_822_971_392, 3_470_024_704),
    ],
)
def test_swiglu_models_have_the_published_number_of_parameters(size, backbone, total):
    with torch.device("meta"):
        model = Transformer(ModelConfig(size=size), PUBLISHED)
    counts = model.parameter_counts()
    assert counts["backbone"] == backbone
    assert counts["backbone"] + counts["embeddings"] == total == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("variant", "total"),  # recorded from the published implementation (golden cases)
    [
        ({"mlp": "gelu", "bias": True}, 15_300_192),
        ({"mlp": "swiglu"}, 15_297_408),
        ({"mlp": "swiglu", "qk_norm": True}, 15_297_552),
    ],
)
def test_every_variant_has_the_published_number_of_parameters(variant, total):
    with torch.device("meta"):
        model = Transformer(small_config(width=48, **variant), PUBLISHED)
    assert sum(model.parameter_counts().values()) == total


def test_a_size_fills_in_the_numbers_and_survives_a_round_trip():
    config = ModelConfig(size="B")
    assert (config.width, config.encoder_blocks, config.decoder_blocks, config.heads) == (768, 12, 12, 12)
    assert ModelConfig(**config.model_dump()) == config


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": "S", "width": 256}, "width=256 contradicts size='S'"),
        ({"width": 30, "encoder_blocks": 1, "decoder_blocks": 1, "heads": 4}, "not a multiple of heads=4"),
        ({"width": 30, "encoder_blocks": 1, "decoder_blocks": 1, "heads": 3}, "not a multiple of 4"),
        ({"width": 32, "encoder_blocks": 1, "decoder_blocks": 1}, "heads"),
        ({"size": "S", "widht": 512}, "widht"),
        ({"size": "M"}, "size"),
    ],
)
def test_a_contradicting_configuration_is_refused(arguments, message):
    with pytest.raises(ValidationError, match=message):
        ModelConfig(**arguments)


def test_a_model_built_on_the_meta_device_can_be_filled_later(vocabulary):
    direct = Transformer(small_config(), vocabulary)
    with torch.device("meta"):
        later = Transformer(small_config(), vocabulary)
    later.to_empty(device="cpu")
    for model in (direct, later):
        torch.manual_seed(3)
        model.initialise()
    tensors = dict(later.named_parameters()) | dict(later.named_buffers())
    for name, tensor in [*direct.named_parameters(), *direct.named_buffers()]:
        assert torch.equal(tensor, tensors[name]), name

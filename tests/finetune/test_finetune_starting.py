"""A fine-tuning's weights are read row by row from its source: the same numbers, and no more than a process holds."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from fourm_engine import exported
from fourm_engine.finetune.source import Source
from fourm_engine.finetune.trainable import adapt
from fourm_engine.modalities import load_manager
from fourm_engine.model import FourM
from fourm_engine.nn.adapt import copy_weights
from fourm_engine.nn.transformer import Transformer
from fourm_engine.pretrain.initial_weights import warm_start
from fourm_engine.recipes.config import load_config
from fourm_engine.recipes.train import train
from fourm_engine.weights import read_rows
from tests.finetune.based import config_of, silent
from tests.pieces import in_pieces

LORA = {"rank": 2, "alpha": 4.0}


def filled(source, config, *, seed, pieces):
    """The network, each parameter of which was filled in so many pieces."""
    with torch.device("meta"):
        network = Transformer(config.model, source.vocabulary)
        adapt(network, source.settings, source.trained_config)
    return in_pieces(warm_start(network, source.read, source.shapes, seed=seed), pieces).state_dict()


@pytest.mark.parametrize(
    ("sections", "drawn"),
    [
        ({}, ()),
        ({"finetune": {"freeze": ["encoder"]}, "model": {"registers": 3}}, ("registers",)),
        ({"finetune": {"lora": LORA}}, (".down",)),
        (
            {"model": {"encoder_blocks": 2}},
            tuple(f"encoder.1.{name}.weight" for name in ("attn.qkv", "mlp.fc1", "mlp.fc3")),
        ),
        ({"modalities": {"settings": {"rgb": {"image_size": 48}}, "select": ["caption", "rgb"]}}, ()),
    ],
)
def test_the_weights_are_those_of_the_source_in_any_number_of_pieces(folder, tmp_path, sections, drawn):
    config = load_config(config_of(folder, tmp_path, **sections))
    manager = load_manager(config.modalities)
    source = Source.open(config.finetune, config.load_modalities(manager), config.model, manager)
    whole, parts = (filled(source, config, seed=5, pieces=pieces) for pieces in (1, 3))
    network = Transformer(config.model, source.vocabulary)
    copy_weights(network, FourM.from_pretrained(config.finetune.source, device="cpu", manager=manager).network)
    adapt(network, source.settings, source.trained_config)
    expected = network.state_dict()
    assert expected.keys() == whole.keys()
    for name, tensor in whole.items():
        assert torch.equal(tensor, parts[name]), name
        if not name.endswith(tuple(drawn) or "-"):
            assert torch.equal(tensor, expected[name]), name
    for name in (name for name in whole if name.endswith(tuple(drawn) or "-")):
        assert 0.5 < float(whole[name].std() / expected[name].std()) < 2, name
        assert not torch.equal(whole[name], filled(source, config, seed=6, pieces=1)[name])


def test_from_scratch_nothing_but_the_shape_is_the_sources(folder, tmp_path):
    config = load_config(config_of(folder, tmp_path, finetune={"from_scratch": True}), ["train.lr=1e-9", "seed=7"])
    train(config, print_fn=silent)
    found, base = (
        FourM.from_pretrained(run, device="cpu").network.state_dict() for run in (config.run, folder / "base")
    )
    assert {name: tensor.shape for name, tensor in found.items()} == {name: t.shape for name, t in base.items()}
    for name in ("encoder.0.attn.qkv.weight", "decoder.0.mlp.fc2.weight", "embedding.encoder_table"):
        both = torch.stack([found[name].flatten(), base[name].flatten()])
        assert abs(float(torch.corrcoef(both)[0, 1])) < 0.2, name
        assert float(found[name].std()) > 0, name


def test_no_process_reads_the_whole_source(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(exported, "load_network", lambda *_: pytest.fail("the source was loaded whole"))
    config = load_config(config_of(folder, tmp_path, finetune={"lora": LORA}))
    assert train(config, print_fn=silent)


def test_learned_positions_of_another_length_are_interpolated_alike(tmp_path):
    from safetensors.torch import save_file

    from fourm_engine.nn.adapt import resized

    name = "embedding.encoder_positions.pose"
    save_file({name: torch.arange(12.0).reshape(4, 3)}, tmp_path / "model.safetensors")

    class Blank:
        def initial(self):
            return {}

        def init_buffers(self):
            pass

        def named_parameters(self):
            return ()

    read = partial(read_rows, tmp_path / "model.safetensors")
    plan = warm_start(Blank(), lambda part, name, first: read(name, part, first), {name: (4, 3)}, seed=0)
    part = torch.empty(2, 3)
    plan.fill(name, part, 3, 6)
    assert torch.equal(part, resized(torch.arange(12.0).reshape(4, 3), 6)[3:5])

"""The weights of an extension are read row by row from its source: the numbers of the whole, in any pieces."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from fourm_engine import exported
from fourm_engine.extend.task import ExtendTask
from fourm_engine.nn.adapt import plain_state
from fourm_engine.recipes.extend import open_extension
from fourm_engine.tokenizers import store
from tests.extend.growing import Host, prepare, run_config
from tests.pieces import in_pieces


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grow")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "PluginManager", Host)
        prepare(folder)
    return folder


@pytest.mark.parametrize("train", ["rows", "lora", "all"])
def test_the_weights_are_those_of_the_source_in_any_number_of_pieces(folder, tmp_path, monkeypatch, train):
    monkeypatch.setattr(store, "PluginManager", Host)
    monkeypatch.setattr(exported, "load_network", lambda *_: pytest.fail("the source was loaded whole"))
    config = run_config(folder, tmp_path, extend={"add": ["b", "c@pixels", "pair"], "train": train})
    extension = open_extension(config, Host())
    task = SimpleNamespace(extension=extension, config=extension.source.network.config, vocabulary=extension.vocabulary)
    task.adapt, task.blank = (lambda n: ExtendTask.adapt(task, n)), (lambda: ExtendTask.blank(task))
    whole, parts = (in_pieces(ExtendTask.meta_model(task, 5), pieces) for pieces in (1, 3))
    state = plain_state(whole)
    for name, tensor in plain_state(parts).items():
        assert torch.equal(tensor, state[name]), name
    known = load_file(folder / "base/model/model.safetensors")
    for name, tensor in known.items():
        assert torch.equal(state[name][: len(tensor)], tensor), name
    table = state["embedding.encoder_table"]
    before = len(known["embedding.encoder_table"])
    sizes = [float(part.square().mean().sqrt()) for part in (table[:before], table[before:])]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.3)
    learning = {name for name, p in whole.named_parameters() if p.requires_grad}
    assert not any(name.endswith(".known") for name in learning)
    other = plain_state(in_pieces(ExtendTask.meta_model(task, 6), 1))
    changed = {name for name in state if not torch.equal(other[name], state[name])}
    assert "embedding.encoder_table" in changed
    assert "encoder.0.attn.qkv.weight" not in changed

"""A run with `finetune.lora` leaves an adapter: small, of one model, which with it is the one that was trained."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import fourm_engine as fm
from fourm_engine.model import FourM
from fourm_engine.recipes.config import load_config
from fourm_engine.recipes.tokenize import tokenize
from fourm_engine.recipes.train import train
from tests.finetune.based import CODEC, config_of, silent
from tests.running import fourm

LORA = {"rank": 2, "alpha": 4.0}


def finetuned(folder, out, *overrides, **sections):
    sections = {"finetune": {"lora": LORA}} | sections
    config = load_config(config_of(folder, out, **sections), overrides)
    train(config, print_fn=silent)
    return config.run


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    """Adapters in both halves; the norms and the rows learn beside them, and two registers are new."""
    sections = {"finetune": {"lora": LORA, "freeze": ["encoder", "decoder", "context_proj"]}}
    return finetuned(folder, tmp_path_factory.mktemp("run"), "model.registers=2", **sections)


def same(model, other):
    a, b = model.network.state_dict(), other.network.state_dict()
    assert a.keys() == b.keys()
    assert model.vocabulary.to_json() == other.vocabulary.to_json()
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=1e-6, rtol=1e-6, msg=name)
    asked = {"caption": "a red ball"}
    one, two = (m.generate(asked, ["rgb", "depth"], seed=0) for m in (model, other))
    assert all(torch.equal(torch.as_tensor(one[n].tokens), torch.as_tensor(two[n].tokens)) for n in ("rgb", "depth"))


def test_a_model_with_its_adapter_is_the_one_that_was_trained(folder, run):
    trained = FourM.from_pretrained(run, device="cpu")
    for adapter in (run, run / "adapter"):
        same(FourM.from_pretrained(folder / "base", adapter=adapter, device="cpu"), trained)
    one = fm.encoder(folder / "base", adapter=run, device="cpu")([{"caption": "a red ball"}])
    torch.testing.assert_close(one, fm.encoder(run, device="cpu")([{"caption": "a red ball"}]), atol=1e-6, rtol=1e-6)
    assert not torch.equal(one, fm.encoder(folder / "base", device="cpu")([{"caption": "a red ball"}]))


def test_an_adapter_holds_what_was_learned_alone(folder, tmp_path):
    adapted = finetuned(folder, tmp_path, finetune={"lora": {**LORA, "matrices": ["encoder.0.attn"]}})
    tensors = load_file(adapted / "adapter/adapter.safetensors")
    layers = ("encoder.0.attn.proj", "encoder.0.attn.qkv")
    assert sorted(tensors) == [f"{layer}.weight.{factor}" for layer in layers for factor in ("down", "up")]
    assert (adapted / "adapter/adapter.safetensors").stat().st_size < 3000
    assert not (folder / "base/adapter").exists()


def test_at_another_size_the_adapter_brings_the_size_along(folder, tmp_path):
    settings = {"settings": {"rgb": {"image_size": 48}}, "select": ["caption", "rgb"]}
    tokens = str(tmp_path / "tokens")
    data = {"data": {"train": str(folder / "data"), "val": str(folder / "data"), "tokens": tokens}}
    path = config_of(folder, tmp_path, modalities=settings, finetune={"lora": LORA}, **data)
    tokenize(load_config(path), print_fn=silent)
    train(load_config(path), print_fn=silent)
    both = FourM.from_pretrained(folder / "base", adapter=tmp_path / "run", device="cpu")
    assert both.generate({"caption": "a ball"}, "rgb")["rgb"].tokens.size == 36
    same(both, FourM.from_pretrained(tmp_path / "run", device="cpu"))


def test_an_adapter_may_belong_to_a_published_model(folder, tmp_path):
    published = tmp_path / "published/model.safetensors"
    FourM.from_pretrained(folder / "base", device="cpu").save_published(published)
    settings = {"caption": {"text": {"coordinate_bins": 8}}, "rgb": {"tokenizer": CODEC}}
    sections = {
        "finetune": {"source": str(published), "lora": LORA},
        "tokenizers": {"folder": str(folder / "tokenizers")},
    }
    adapted = finetuned(folder, tmp_path, select=["caption", "rgb"], modalities={"settings": settings}, **sections)
    both = FourM.from_pretrained(published, adapter=adapted, device="cpu")
    trained = FourM.from_pretrained(adapted, device="cpu")
    for name, tensor in trained.network.state_dict().items():
        torch.testing.assert_close(both.network.state_dict()[name], tensor, atol=1e-6, rtol=1e-6, msg=name)
    tokenizers = {
        name: folder / "tokenizers" / trained.modalities[name].spec.token_space.name for name in ("rgb", "caption")
    }
    given = FourM.from_pretrained(published, adapter=adapted, tokenizers=tokenizers, device="cpu")
    assert given.tokenizers["rgb"].fingerprint == trained.tokenizers["rgb"].fingerprint
    file = adapted / "adapter/adapter.json"
    file.write_text(file.read_text().replace(given.tokenizers["rgb"].fingerprint, "another"))
    with pytest.raises(ValueError, match="trained with tokenizer another of 'rgb', not with the given one"):
        FourM.from_pretrained(published, adapter=adapted, tokenizers=tokenizers, device="cpu")


def test_the_command_line_merges_an_adapter_into_an_ordinary_model(folder, run, tmp_path):
    arguments = ["convert", str(folder / "base"), str(tmp_path / "out"), "--to", "native", "--adapter", str(run)]
    fourm(*arguments)
    same(FourM.from_pretrained(tmp_path / "out", device="cpu"), FourM.from_pretrained(run, device="cpu"))


def refused(folder, run, words):
    with pytest.raises(ValueError, match=words) as caught:
        FourM.from_pretrained(folder, adapter=run, device="cpu")
    assert "\n" not in str(caught.value)


def test_an_adapter_of_another_model_is_refused_in_one_line(folder, run, tmp_path):
    other = shutil.copytree(folder / "base/model", tmp_path / "model")
    tensors = load_file(other / "model.safetensors")
    tensors["encoder_norm.weight"][0] += 1e-3
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    refused(other, run, rf"adapter of another model than {other}.*was trained from '.*base'.* give that one")
    refused(folder / "base", folder / "base", "no adapter: adapter.json is missing")
    with pytest.raises(ValueError, match="leave settings out"):
        FourM.from_pretrained(folder / "base", adapter=run, settings={"rgb": {}}, device="cpu")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda c, t: t.pop("encoder.0.attn.qkv.weight.up"), "encoder.0.attn.qkv.weight: down and up"),
        (lambda c, t: t.update({"encoder.0.attn.qkv.weight.up": torch.zeros(96, 3)}), "down and up do not match"),
        (lambda c, t: t.update({"odd": torch.zeros(3)}), "odd of shape .* is unknown there"),
        (lambda c, t: t.update({"registers": torch.zeros(9, 32)}), "registers of shape"),
        (lambda c, t: t.pop("registers"), "registers is missing"),
        (lambda c, t: c.update(scale=-1), "scale: "),
        (lambda c, t: c.update(version=9), "version: "),
        (lambda c, t: c["model"]["model"].update(width=1 << 20), "model.width: "),
        (lambda c, t: c["model"]["vocabulary"].pop(), "vocabulary and modalities"),
    ],
)
def test_a_damaged_adapter_is_told_in_one_line(folder, run, tmp_path, damage, words):
    shutil.copytree(run / "adapter", tmp_path / "adapter")
    config, tensors = tmp_path / "adapter/adapter.json", tmp_path / "adapter/adapter.safetensors"
    document, content = json.loads(config.read_text()), load_file(tensors)
    damage(document, content)
    config.write_text(json.dumps(document))
    save_file(content, tensors)
    refused(folder / "base", tmp_path, words)


@pytest.mark.parametrize("file", ["adapter.json", "adapter.safetensors"])
def test_an_adapter_that_was_cut_is_told_in_one_line(folder, run, tmp_path, file):
    shutil.copytree(run / "adapter", tmp_path / "adapter")
    path = tmp_path / "adapter" / file
    path.write_bytes(path.read_bytes()[:-9])
    refused(folder / "base", tmp_path, file)

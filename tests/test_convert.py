"""Published checkpoints: strict when read, the same bits when written back, usable as a model trained here."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fourm_engine.convert import published, published_model
from fourm_engine.convert.absent import MissingTokenizerError
from fourm_engine.convert.tensors import Domain, vocabulary_of
from fourm_engine.convert.tokenizer_format import CODECS, UNETS
from fourm_engine.convert.tokenizers import save_published_tokenizer
from fourm_engine.generate.input_types import Ids
from fourm_engine.model import FourM
from fourm_engine.nn.config import ModelConfig
from fourm_engine.nn.transformer import Transformer
from fourm_engine.tokenizers.divae import DiVAETokenizer
from fourm_engine.tokenizers.wordpiece import WordPieceTokenizer
from fourm_plugins.manager import PluginManager
from fourm_plugins.spec import Grid, Sequence
from tests.running import fourm, refused

GRID = Grid(height=2, width=2)
OURS = {"dim": "width", "num_register_tokens": "registers"}
DOMAINS = [
    Domain("tok_rgb@32", GRID, 12, 0, True, True),
    Domain("rgb@32", GRID, 0, 768, True, False),
    Domain("tok_depth@32", GRID, 9, 0, True, True),
    Domain("caption", Sequence(max_tokens=12), 4300, 0, True, True),
    Domain("tok_normal@32", GRID, 7, 0, False, True),
]


@pytest.fixture(params=["gelu", "swiglu"])
def checkpoint(request, tmp_path):
    """A small file in the published format; its domains_out are in an order of their own."""
    gelu = request.param == "gelu"
    shape = {"width": 16, "encoder_blocks": 1, "decoder_blocks": 1, "heads": 2}
    config = ModelConfig(**shape, mlp=request.param, bias=gelu, qk_norm=not gelu, registers=3 * gelu)
    vocabulary = vocabulary_of(DOMAINS)
    torch.manual_seed(0)
    network = Transformer(config, vocabulary)
    names = {domain.name: domain.name for domain in DOMAINS}
    arguments = published_model.arguments_of(config, DOMAINS, image_size=32, patch_size=16)
    arguments["domains_out"] = sorted(arguments["domains_out"])
    path = tmp_path / "published" / "model.safetensors"
    path.parent.mkdir()
    metadata = {key: str(value) for key, value in arguments.items()}
    tensors = published_model.to_published(network, vocabulary, DOMAINS, names)
    save_file(tensors, path, metadata={"format": "pt", **metadata})
    return path


def change(path, edit, **arguments):
    tensors, (old, _, _) = load_file(path), published.read_arguments(path)
    edit(tensors)
    save_file(tensors, path, metadata={k: str(v) for k, v in (old | arguments).items()})


def test_a_round_trip_keeps_every_bit_and_the_order_of_the_domains(checkpoint, tmp_path):
    FourM.from_pretrained(checkpoint, device="cpu").save_pretrained(tmp_path / "native")
    native = FourM.from_pretrained(tmp_path / "native", device="cpu")
    assert native.vocabulary.names == ["rgb", "rgb@pixels", "depth", "caption", "normal"]
    native.save_published(tmp_path / "again" / "model.safetensors")
    before, after = load_file(checkpoint), load_file(tmp_path / "again" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    arguments = published.read_arguments(checkpoint)[0]
    assert published.read_arguments(tmp_path / "again" / "model.safetensors")[0] == arguments
    assert json.loads((tmp_path / "again" / "config.json").read_text()) == arguments


def test_arguments_may_stand_in_a_config_beside_the_file(checkpoint):
    arguments = published.read_arguments(checkpoint)[0]
    save_file(load_file(checkpoint), checkpoint, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"config\.json"):
        FourM.from_pretrained(checkpoint, device="cpu")
    checkpoint.with_name("config.json").write_text(json.dumps(arguments))
    assert FourM.from_pretrained(checkpoint.parent, device="cpu").vocabulary.names[1] == "rgb@pixels"


def test_each_process_reads_its_rows_of_a_published_file_and_no_more(checkpoint, monkeypatch):
    opened = published_model.open_checkpoint(checkpoint)
    names = {domain.name: domain.name for domain in opened.domains}
    whole = dict(published_model.build_network(opened, opened.domains, names).named_parameters())
    blank, numbers = published_model.blank_network(opened, opened.domains, names), []
    read_rows = published_model.read_rows

    def counted(path, key, rows, first, *, leading):
        numbers.append(0 if leading else rows.numel())
        read_rows(path, key, rows, first, leading=leading)

    monkeypatch.setattr(published_model, "read_rows", counted)
    read = published_model.reader(opened, blank, opened.domains, names)
    for process in range(3):
        numbers.clear()
        share = 0
        for name, parameter in whole.items():
            chunk = -(-len(parameter) // 3)
            first = min(chunk * process, len(parameter))
            part = torch.full_like(parameter[first : first + chunk], torch.nan)
            read(part, name, first)
            assert torch.equal(part, parameter[first : first + chunk]), name
            share += part.numel()
        assert 0 < sum(numbers) <= share


def test_tied_tensors_that_a_file_holds_once_are_found(checkpoint):
    arguments = published.read_arguments(checkpoint)[0]
    tensors = load_file(checkpoint)
    gone, kept = (f"{side}_embeddings.caption.mod_emb" for side in ("decoder", "encoder"))
    del tensors[gone]
    save_file(tensors, checkpoint, metadata={k: str(v) for k, v in arguments.items()} | {gone: kept})
    model = FourM.from_pretrained(checkpoint, device="cpu")
    assert torch.equal(model.network.embedding.modality[model.vocabulary["caption"].index], tensors[kept][0, 0])


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_a_missing_an_unknown_and_a_misshapen_tensor_are_named(checkpoint, side):
    key = f"{side}_embeddings.tok_depth@32.token_emb.weight"
    change(checkpoint, lambda tensors: tensors.update({key: tensors[key][:, :4].contiguous()}))
    with pytest.raises(ValueError, match=key):
        FourM.from_pretrained(checkpoint, device="cpu")
    change(checkpoint, lambda tensors: tensors.pop(key))
    with pytest.raises(ValueError, match=f"{key} is missing"):
        FourM.from_pretrained(checkpoint, device="cpu")


def test_a_tensor_that_no_argument_asks_for_is_named(checkpoint):
    change(checkpoint, lambda tensors: tensors.update({"encoder.7.odd": torch.zeros(1)}))
    with pytest.raises(ValueError, match=r"encoder\.7\.odd is unknown"):
        FourM.from_pretrained(checkpoint, device="cpu")


@pytest.mark.parametrize(
    ("argument", "value"),
    [("num_register_tokens", -1), ("dim", "wide"), ("act_layer", "ReLU"), ("dim", 1 << 20), ("domains_in", "rgb@32")],
)
def test_arguments_that_ours_cannot_be_are_named(checkpoint, argument, value):
    change(checkpoint, lambda tensors: None, **{argument: value})
    with pytest.raises(ValueError, match="wide" if value == "wide" else OURS.get(argument, argument)):
        FourM.from_pretrained(checkpoint, device="cpu")


def test_a_domain_without_a_plugin_is_named_with_its_package_and_a_part_can_be_loaded(checkpoint):
    manager = PluginManager(disabled=["depth"])
    model = FourM.from_pretrained(checkpoint, device="cpu", manager=manager)
    assert "pip install fourm-depth" in model.missing["tok_depth@32"]
    with pytest.raises(ValueError, match="pip install fourm-depth"):
        model.generate({"rgb": Ids(np.zeros(4, np.int64))}, ["tok_depth@32"])
    with pytest.raises(ValueError, match="pip install fourm-depth"):
        FourM.from_pretrained(checkpoint, device="cpu", manager=manager, domains=["tok_depth@32"])
    part = FourM.from_pretrained(checkpoint, device="cpu", domains=["tok_depth@32", "caption"])
    assert part.vocabulary.names == ["depth", "caption"]
    stored = load_file(checkpoint)["encoder_embeddings.tok_depth@32.token_emb.weight"]
    assert torch.equal(part.network.embedding.encoder_table[:9], stored)
    with pytest.raises(ValueError, match="no 'bees'"):
        FourM.from_pretrained(checkpoint, device="cpu", domains=["bees"])


def test_the_package_of_a_domain_that_is_called_otherwise_is_named(checkpoint):
    edits = {}
    for key, tensor in load_file(checkpoint).items():
        edits[key.replace(".caption.", ".det.")] = tensor
    arguments = published.read_arguments(checkpoint)[0]
    save_file(edits, checkpoint, metadata={k: str(v).replace("'caption'", "'det'") for k, v in arguments.items()})
    model = FourM.from_pretrained(checkpoint, device="cpu", manager=PluginManager(disabled=["boxes"]))
    assert "pip install fourm-boxes" in model.missing["det"]
    assert "boxes" in FourM.from_pretrained(checkpoint, device="cpu").modalities


def test_settings_of_a_plugin_that_the_file_does_not_say_can_be_given(checkpoint):
    model = FourM.from_pretrained(checkpoint, device="cpu", settings={"depth": {"normalisation": "log"}})
    assert model.modalities["depth"].settings.normalisation == "log"
    assert model.modalities["depth"].settings.codebook_size == 9
    with pytest.raises(ValueError, match="no 'bees'"):
        FourM.from_pretrained(checkpoint, device="cpu", settings={"bees": {}})


def test_a_published_model_is_loaded_as_the_published_data_was_made(checkpoint):
    """Whatever the plugins' defaults are."""
    model = FourM.from_pretrained(checkpoint, device="cpu")
    assert model.modalities["depth"].settings.normalisation == "per_image"
    assert model.modalities["rgb"].settings.normalisation == "unit"
    assert model.modalities["rgb@pixels"].settings.normalisation == "imagenet"
    cls = PluginManager().modality_class("semseg")
    semseg = cls("semseg", image_size=32, **cls.published_settings)
    assert semseg.spec.array.classes == 134
    value = np.array([[-1, 0], [5, 132]]).repeat(16, 0).repeat(16, 1)
    assert np.unique(semseg.normalise(value)).tolist() == [0, 1, 6, 133]
    assert np.array_equal(semseg.denormalise(semseg.normalise(value)), value)


def test_plugins_are_disabled_and_provided_as_in_a_config(checkpoint, tmp_path):
    assert "tok_depth@32" in FourM.from_pretrained(checkpoint, device="cpu", disable=["depth"]).missing
    model = FourM.from_pretrained(checkpoint, device="cpu", providers={"depth": "fourm-depth"})
    assert model.modalities.plugins["depth"].distribution == "fourm-depth"
    model.save_pretrained(tmp_path / "native")
    again = FourM.from_pretrained(tmp_path / "native", device="cpu", disable=["depth"])
    assert "depth" in again.missing
    with pytest.raises(ValueError, match="does not provide"):
        FourM.from_pretrained(checkpoint, device="cpu", providers={"depth": "other"})
    with pytest.raises(ValueError, match="are the manager's"):
        FourM.from_pretrained(checkpoint, device="cpu", manager=PluginManager(), disable=["depth"])


def test_a_diffusion_tokenizer_reads_and_writes_maps_of_a_published_model(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(CODECS, "vit_s", {"width": 16, "blocks": 1, "heads": 2})
    unet = {"patch": 4, "width": 16, "multipliers": (1, 2), "blocks": 1, "attention": (2,), "groups": 8}
    monkeypatch.setitem(UNETS, "unet_patched", unet)
    spec = FourM.from_pretrained(checkpoint, device="cpu").modalities["depth"].spec
    made = DiVAETokenizer([spec], encoder=CODECS["vit_s"], decoder=unet, diffusion={"steps": 2})
    made.network.quantiser.codes.normal_()
    save_published_tokenizer(made, tmp_path / "tokenizer" / "model.safetensors")
    model = FourM.from_pretrained(checkpoint, device="cpu", tokenizers={"depth": tmp_path / "tokenizer"})
    model.save_pretrained(tmp_path / "native")
    native = FourM.from_pretrained(tmp_path / "native", device="cpu")
    assert native.tokenizers["depth"].kind == "divae"
    depth = np.random.default_rng(0).uniform(1, 5, (32, 32)).astype(np.float32)
    values, features = [], []
    for each in (model, native):
        values.append(each.generate({"depth": depth}, ["normal"], seed=1)["normal"].tokens)
        values.append(each.generate({"rgb": Ids([1, 2, 3, 4])}, ["depth"], seed=1)["depth"].value)
        features.append(each.encode([{"depth": depth}])[0])
    assert np.array_equal(values[0], values[2])
    assert values[1].shape == (32, 32)
    assert np.isfinite(values[1]).all()
    assert np.array_equal(values[1], values[3])
    assert torch.equal(*features)


def test_a_model_without_tokenizers_takes_and_gives_ids_and_says_how_to_decode(checkpoint, tmp_path):
    FourM.from_pretrained(checkpoint, device="cpu").save_pretrained(tmp_path / "native")
    for place in (checkpoint, tmp_path / "native"):
        model = FourM.from_pretrained(place, device="cpu")
        out = model.generate({"rgb": Ids([1, 2, 3, 4]), "caption": Ids([250, 260])}, ["depth", "normal"], seed=1)
        assert out["depth"].tokens.shape == (4,)
        with pytest.raises(MissingTokenizerError, match="tokenizers="):
            _ = out["depth"].value
        with pytest.raises(MissingTokenizerError, match="tokenizers="):
            out["depth"].render()
        with pytest.raises(ValueError, match="target only"):
            model.generate({"normal": Ids([1, 2, 3, 4])}, ["depth"])
        features, valid = model.encode([{"rgb": np.zeros((32, 32, 3), np.uint8)}])
        assert features.shape == (1, 4, 16)
        assert valid.all()


def test_a_vocabulary_that_is_given_reads_and_writes_text_and_is_saved_without_its_place(checkpoint, tmp_path):
    spec = FourM.from_pretrained(checkpoint, device="cpu").modalities["caption"].spec
    fitted = WordPieceTokenizer([spec])
    fitted.fit(lambda: ["a red ball", "a red cube"])
    fitted.save(tmp_path)
    given = {"caption": tmp_path / "wordpiece.json"}
    model = FourM.from_pretrained(checkpoint, device="cpu", tokenizers=given)
    ids = fitted.encode(["a red ball"])[0]
    assert model.tokenizers["caption"].decode([ids]) == ["a red ball"]
    assert model.reader.read({"caption": "a red ball"}, [])[0].shown["caption"].ids.tolist() == [*ids, 3]
    model.save_pretrained(tmp_path / "native")
    assert FourM.from_pretrained(tmp_path / "native", device="cpu").tokenizers["caption"].decode([ids]) == [
        "a red ball"
    ]
    for file in (tmp_path / "native").rglob("*.json"):
        assert str(tmp_path) not in file.read_text()
    with pytest.raises(ValueError, match="'bees' needs none"):
        FourM.from_pretrained(checkpoint, device="cpu", tokenizers={"bees": "x"})


def test_the_command_converts_both_ways(checkpoint, tmp_path):
    fourm("convert", checkpoint, tmp_path / "native", "--to", "native")
    fourm("convert", tmp_path / "native", tmp_path / "back", "--to", "published")
    before, after = load_file(checkpoint), load_file(tmp_path / "back" / "model.safetensors")
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert "nothing" in refused("convert", tmp_path / "nothing", tmp_path / "x", "--to", "native")

"""A run that starts from a trained model: what learns and what does not, other sizes, and mistakes in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from fourm_engine.batch import Tokens
from fourm_engine.finetune.source import Source
from fourm_engine.finetune.task import FinetuneTask, adapt
from fourm_engine.generate.input_types import Ids
from fourm_engine.masking.pack import Shown, pack_inputs
from fourm_engine.modalities import load_manager
from fourm_engine.model import FourM
from fourm_engine.nn.adapt import copy_weights, plain_state
from fourm_engine.nn.transformer import Transformer
from fourm_engine.pretrain.task import network_of
from fourm_engine.recipes.config import load_config
from fourm_engine.recipes.dry_run import dry_run
from fourm_engine.recipes.fit import fit
from fourm_engine.recipes.tokenize import tokenize
from fourm_engine.recipes.train import train
from tests.finetune.based import CODEC, SETTINGS, config_of, silent
from tests.running import refused

FROM_PIXELS = {
    "select": ["caption", "rgb", "rgb@pixels"],
    "masking": {"mixture": [{"name": "pixels to picture", "input": {"rgb@pixels": 1}, "target": {"rgb": 1}}]},
}
LORA = {"rank": 2, "alpha": 4.0}


def finetuned(folder: Path, out: Path, *overrides: str, **sections) -> Path:
    """The run's folder."""
    config = load_config(config_of(folder, out, **sections), overrides)
    train(config, print_fn=silent)
    return config.run


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model/model.safetensors")


def started(folder: Path, out: Path, **sections) -> tuple[Source, Transformer]:
    """The source and the network before the first step."""
    config = load_config(config_of(folder, out, **sections))
    manager = load_manager(config.modalities)
    source = Source.open(config.finetune, config.load_modalities(manager), config.model, manager)
    network = Transformer(config.model, source.vocabulary)
    copy_weights(network, FourM.from_pretrained(config.finetune.source, device="cpu", manager=manager).network)
    adapt(network, source.settings, source.trained_config)
    return source, network.eval()


def answer(network: Transformer, source: Source) -> torch.Tensor:
    """Logits of a picture given a caption."""
    model = source.exported(network, {})
    tokens, continuous = pack_inputs([{"caption": Shown.tokens(np.arange(5, 10))}], model.vocabulary, 5, "cpu")
    context, valid = network.encode(tokens, continuous)
    pos = torch.arange(16)[None]
    mod = torch.full_like(pos, model.vocabulary["rgb"].index)
    y = network.decode(Tokens(torch.full_like(pos, -1), pos, mod, torch.zeros_like(pos)), context, valid)
    return network.logits(y, "rgb")


def from_pixels(network: Transformer, source: Source) -> torch.Tensor:
    """The encoder's features of a picture."""
    model = source.exported(network, {})
    spec = model.modalities["rgb@pixels"].spec
    array = np.random.default_rng(0).normal(size=(3, 32, 32)).astype(np.float32)
    shown = {"rgb@pixels": Shown.continuous(spec, array)}
    return network.encode_features(*pack_inputs([shown], model.vocabulary, 16, "cpu"))[0]


def test_a_config_says_no_more_than_what_differs_and_what_takes_no_part_keeps_every_bit(folder, tmp_path):
    run = finetuned(folder, tmp_path, select=["caption", "rgb"])
    before, after = weights(folder / "base"), weights(run)
    model = FourM.from_pretrained(run, device="cpu")
    assert sorted(model.modalities) == sorted(SETTINGS)  # all that the model knew
    assert not torch.equal(before["encoder.0.mlp.fc1.weight"], after["encoder.0.mlp.fc1.weight"])
    entry = model.vocabulary["depth"]
    for table in ("embedding.encoder_table", "embedding.decoder_table", "heads.weight"):
        rows = slice(entry.start, entry.stop)
        assert torch.equal(before[table][rows], after[table][rows]), table
    pixels = "embedding.projections.rgb@pixels.weight"
    assert torch.equal(before[pixels], after[pixels])
    stored = yaml.safe_load((run / "config.yaml").read_text())
    assert stored["model"]["width"] == 32
    assert stored["tokenizers"]["folder"] == str(folder / "base/model/tokenizers")


@pytest.mark.parametrize("sections", [{}, {"finetune": {"freeze": ["encoder"]}}, {"finetune": {"lora": LORA}}])
def test_before_the_first_step_it_is_the_model_that_it_starts_from_bit_for_bit(folder, tmp_path, sections):
    base = FourM.from_pretrained(folder / "base", device="cpu")
    source, network = started(folder, tmp_path, **sections)
    with torch.no_grad():
        assert torch.equal(answer(network, source), answer(base.network, source))


def test_frozen_parts_keep_every_bit_and_the_others_learn(folder, tmp_path):
    run = finetuned(folder, tmp_path, "train.ema=0.9", finetune={"freeze": ["encoder", "embedding.*_table", "*.bias"]})
    before, after = weights(folder / "base"), weights(run)
    kept = {name for name in before if torch.equal(before[name], after[name])}
    frozen = {n for n in before if n.startswith("encoder.") or n.endswith("_table") or n.endswith(".bias")}
    assert frozen <= kept
    assert "decoder.0.mlp.fc1.weight" not in kept
    assert "heads.weight" not in kept


def test_adapters_alone_learn_and_the_export_holds_them_merged(folder, tmp_path, monkeypatch):
    kept = {}
    export = FinetuneTask.export

    def keep(self, state, *rest):
        kept.update(state)
        export(self, state, *rest)

    monkeypatch.setattr(FinetuneTask, "export", keep)
    lora = {**LORA, "matrices": ["encoder.*.attn", "decoder.0.mlp.fc1"]}
    run = finetuned(folder, tmp_path, finetune={"lora": lora})
    before, after = weights(folder / "base"), weights(run)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"encoder.0.attn.qkv.weight", "encoder.0.attn.proj.weight", "decoder.0.mlp.fc1.weight"}

    row = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    assert row["flops_per_s"] > 0

    source, network = started(folder, tmp_path, finetune={"lora": lora})
    network.load_state_dict(kept)
    merged = network_of(source.model_config, source.vocabulary, plain_state(network))
    learning = {name for name, p in network.named_parameters() if p.requires_grad}
    assert learning == {name for name in kept if name.endswith(("up", "down"))}
    with torch.no_grad():
        torch.testing.assert_close(answer(merged, source), answer(network, source), atol=1e-6, rtol=1e-6)
    for name, tensor in merged.state_dict().items():
        assert torch.equal(tensor, after[name]), name


def test_lora_with_a_list_of_what_is_frozen_trains_the_rest(folder, tmp_path):
    _, network = started(folder, tmp_path, finetune={"lora": LORA, "freeze": ["embedding"]})
    learning = {name for name, p in network.named_parameters() if p.requires_grad}
    assert {"heads.weight", "encoder_norm.weight"} <= learning
    assert not any(name.startswith("embedding") or name.endswith(".original") for name in learning)


def test_at_another_size_positions_are_interpolated_and_the_model_generates(folder, tmp_path):
    sizes = {"rgb@pixels": {"image_size": 64}, "depth": {"image_size": 48}}
    sections = {
        "modalities": {"settings": sizes},
        "data": {"tokens": str(tmp_path / "tokens")},
        "masking": {
            "input_tokens": 64,
            "target_tokens": 36,
            "mixture": [{"name": "to depth", "input": {"rgb@pixels": 1}, "target": {"depth": 1}}],
        },
    }
    config = load_config(config_of(folder, tmp_path, select=["rgb@pixels", "depth"], **sections))
    tokenize(config, print_fn=silent)
    train(config, print_fn=silent)
    model = FourM.from_pretrained(config.run, device="cpu")
    assert model.vocabulary["depth"].position_grid == (4, 4)
    assert model.vocabulary["rgb"].position_grid is None
    out = model.generate({"rgb@pixels": Image.new("RGB", (64, 64), (200, 10, 10))}, ["depth"])["depth"]
    assert out.tokens.shape == (36,)
    assert out.value.shape == (48, 48)
    # The first of 6 cells lies a sixth of a cell before the first of 4, by their centres.
    table, offset = model.network.embedding.fixed_positions, model.network.embedding.offset
    first = table[offset[model.vocabulary["depth"].index]]
    torch.testing.assert_close(first[0], torch.tensor(-1 / 6).sin())
    # Again from that run, at the size of before: its positions are those of before.
    again = config_of(folder, tmp_path / "again", select=["depth"], finetune={"source": str(config.run)},
                      modalities={"settings": {"depth": {"image_size": 32}}})  # fmt: skip
    config = load_config(again)
    manager = load_manager(config.modalities)
    source = Source.open(config.finetune, config.load_modalities(manager), config.model, manager)
    assert source.vocabulary["depth"].position_grid is None
    with pytest.raises(ValueError, match="'depth' was fine-tuned at another size"):
        model.save_published(tmp_path / "published/model.safetensors")


def test_registers_can_be_added(folder, tmp_path):
    run = finetuned(folder, tmp_path, "model.registers=3", finetune={"lora": LORA})
    before, after = weights(folder / "base"), weights(run)
    assert after["registers"].shape == (3, 32)
    assert torch.equal(before["heads.weight"], after["heads.weight"])
    assert FourM.from_pretrained(run, device="cpu").network.config.registers == 3
    _, network = started(folder, tmp_path, finetune={"lora": LORA}, model={"registers": 3})
    assert network.registers.requires_grad


def test_a_stem_can_be_added_and_changes_nothing_until_it_learns(folder, tmp_path):
    source, network = started(folder, tmp_path, **FROM_PIXELS)
    with_stem, grown = started(folder, tmp_path, **FROM_PIXELS, model={"stem": "conv"})
    assert torch.equal(from_pixels(network, source), from_pixels(grown, with_stem))
    run = finetuned(folder, tmp_path, "model.stem=conv", **FROM_PIXELS, finetune={"lora": LORA})
    before, after = weights(folder / "base"), weights(run)
    stems = [name for name in after if name.startswith("embedding.stems.rgb@pixels.")]
    assert any(name.endswith("proj.weight") and after[name].any() for name in stems)
    assert torch.equal(
        before["embedding.projections.rgb@pixels.weight"], after["embedding.projections.rgb@pixels.weight"]
    )
    model = FourM.from_pretrained(run, device="cpu")
    assert model.network.config.stem == "conv"
    with pytest.raises(ValueError, match=r"model\.stem is 'conv'; the published format has no stems"):
        model.save_published(tmp_path / "published/model.safetensors")
    config = config_of(
        folder, tmp_path / "again", select=["depth"], finetune={"source": str(run)}, model={"stem": "linear"}
    )
    with pytest.raises(ValueError, match=r"model\.stem is 'linear', but 'conv' in"):
        train(load_config(config), print_fn=silent)


def test_blocks_can_be_added_and_change_nothing_until_they_learn(folder, tmp_path):
    source, network = started(folder, tmp_path)
    deeper, grown = started(folder, tmp_path, model={"encoder_blocks": 3, "decoder_blocks": 2})
    assert torch.equal(answer(network, source), answer(grown, deeper))
    run = finetuned(folder, tmp_path, "model.encoder_blocks=3")
    assert float(weights(run)["encoder.2.mlp.fc2.weight"].abs().max()) > 0
    assert len(FourM.from_pretrained(run, device="cpu").network.encoder) == 3
    with pytest.raises(ValueError, match=r"model.encoder_blocks is 1, but .*run has 3; keep them"):
        started(folder, tmp_path / "less", finetune={"source": str(run)}, model={"encoder_blocks": 1})
    with pytest.raises(ValueError, match=r"model.decoder_blocks: new blocks learn as a whole, not by finetune.lora"):
        started(folder, tmp_path / "lora", finetune={"lora": LORA}, model={"decoder_blocks": 2})


def test_a_stopped_run_goes_on_as_if_it_had_not_been_stopped(folder, tmp_path, monkeypatch):
    sections = {"finetune": {"lora": LORA}}
    whole = finetuned(folder, tmp_path / "whole", **sections)
    loss = FinetuneTask.loss

    def stopped(self, model, batch, step):
        if step == 3:
            raise KeyboardInterrupt
        return loss(self, model, batch, step)

    with monkeypatch.context() as patch:
        patch.setattr(FinetuneTask, "loss", stopped)
        with pytest.raises(KeyboardInterrupt):
            finetuned(folder, tmp_path / "parts", **sections)
    config = load_config(tmp_path / "parts/run/config.yaml")  # the stored one says all
    train(config, print_fn=silent)
    one, other = weights(whole), weights(tmp_path / "parts/run")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_published_model_can_be_fine_tuned_with_tokenizers_that_are_given(folder, tmp_path):
    FourM.from_pretrained(folder / "base", device="cpu").save_published(tmp_path / "published/model.safetensors")
    sections = {
        "finetune": {"source": str(tmp_path / "published")},
        "tokenizers": {"folder": str(folder / "tokenizers")},
    }
    # What the file does not say.
    more = {"settings": {"caption": {"text": {"coordinate_bins": 8}}, "rgb": {"tokenizer": CODEC}}}
    run = finetuned(folder, tmp_path, select=["caption", "rgb"], modalities=more, **sections)
    model = FourM.from_pretrained(run, device="cpu")
    assert set(model.modalities) == set(SETTINGS)
    assert model.generate({"caption": Ids([5, 6])}, ["rgb"])["rgb"].value.shape == (32, 32, 3)
    with pytest.raises(ValueError, match=r"no tokenizer of 'rgb'.*fourm convert SOURCE .* --modality rgb"):
        finetuned(folder, tmp_path, "tokenizers.folder=elsewhere", select=["rgb"], modalities=more, **sections)

    del sections["tokenizers"]
    with pytest.raises(ValueError, match=r"tokenizers\.folder: not set, and published models have no tokenizers"):
        finetuned(folder, tmp_path, **sections)


def test_a_stem_can_be_added_to_a_published_model_also_where_its_modality_takes_no_part(folder, tmp_path):
    FourM.from_pretrained(folder / "base", device="cpu").save_published(tmp_path / "published/model.safetensors")
    sections = {
        "finetune": {"source": str(tmp_path / "published")},
        "tokenizers": {"folder": str(folder / "tokenizers")},
        "modalities": {"settings": {"caption": {"text": {"coordinate_bins": 8}}, "rgb": {"tokenizer": CODEC}}},
    }
    run = finetuned(folder, tmp_path, "model.stem=conv", select=["caption", "rgb"], **sections)
    assert "embedding.stems.rgb@pixels.proj.weight" in weights(run)
    assert FourM.from_pretrained(run, device="cpu").network.config.stem == "conv"


def test_the_tokenizers_of_the_model_are_never_fitted_again(folder, tmp_path):
    before = {path: path.read_bytes() for path in (folder / "base/model/tokenizers").rglob("*") if path.is_file()}
    settings = {"settings": {"rgb": {"image_size": 64}}}
    config = load_config(config_of(folder, tmp_path, modalities=settings))
    with pytest.raises(ValueError, match="knows the ids of its tokenizers alone"):
        fit(config, refit=True, print_fn=silent)
    assert before == {path: path.read_bytes() for path in before}


def test_a_dry_run_counts_what_learns(folder, tmp_path):
    report = dry_run(load_config(config_of(folder, tmp_path, finetune={"freeze": ["encoder"]})), gpu="H100")
    number = sum(report.parameters.values())
    frozen = sum(t.numel() for n, t in weights(folder / "base").items() if n.startswith("encoder."))
    assert report.vocabulary.names == FourM.from_pretrained(folder / "base", device="cpu").vocabulary.names
    assert report.memory["parameters"] == 4 * number
    assert report.memory["gradients"] == 4 * (number - frozen)
    assert report.learning == number - frozen


@pytest.mark.parametrize(
    ("sections", "overrides", "words"),
    [
        ({}, ["finetune.source=nowhere/model"], "finetune.source: nowhere/model: no such folder"),
        ({}, ["finetune.source={base}/model/model.safetensors"], "the weights alone; name their folder, {base}/model"),
        ({"select": ["caption", "normal"]}, [], "modalities.select: {base} does not know 'normal'; it knows"),
        ({}, ["model.width=64"], "model.width is 64, but 32 in {base}"),
        ({}, ["model.size=B"], "model.width is 768, but 32 in {base}"),
        ({}, ["finetune.freeze=[encodr]"], "finetune.freeze: no parameter is called 'encodr'; did you mean 'encoder'?"),
        ({}, ["finetune.lora.matrices=[decoder.0.cross_atn]"], "did you mean 'decoder.0.cross_attn'?"),
        ({}, ["finetune.loar.rank=3"], "finetune.loar: unknown key; did you mean lora?"),
        ({}, ["modalities.settings.rgb.codebook_size=32"], "modalities.settings.rgb.codebook_size was 16, is 32"),
        ({}, ["modalities.settings.rgb.normalisation=imagenet"], "rgb.normalisation was \"unit\", is \"imagenet\""),
        ({}, ["tokenizers.folder={base}"], "no tokenizer of 'caption', whose ids the model knows; set tokenizers."),
        ({}, ["extend={{source: {base}, add: [normal]}}"], "extend first, then fine-tune that"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_in_one_line(folder, tmp_path, sections, overrides, words):
    base = str(folder / "base")
    path = config_of(folder, tmp_path, **sections)
    assert words.format(base=base) in refused("train", path, *(o.format(base=base) for o in overrides))
    assert not (tmp_path / "run/checkpoints").exists()


def test_other_tokenizers_than_the_models_are_refused(folder, tmp_path):
    other = tmp_path / "tokenizers"
    shutil.copytree(folder / "tokenizers", other)
    document = json.loads((other / "rgb/tokenizer.json").read_text())
    shutil.rmtree(other / "rgb")
    config = load_config(folder / "base.yaml", [f"tokenizers.folder={other}", "modalities.select=[rgb]", "seed=5"])
    fit(config, print_fn=silent)
    assert json.loads((other / "rgb/tokenizer.json").read_text())["fingerprint"] != document["fingerprint"]
    with pytest.raises(ValueError, match=r"tokenizer of 'rgb' is not the one that .* was trained with"):
        finetuned(folder, tmp_path, tokenizers={"folder": str(other)})

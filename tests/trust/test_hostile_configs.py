"""A config is data: it names nothing that is imported, and describes no more than it holds."""

from __future__ import annotations

import time

import pytest
import yaml

from fourm_engine.modalities import ModalitiesConfig, load_modalities
from fourm_engine.recipes.config import load_config, parse_config
from fourm_engine.yaml_config import ConfigError, apply_override, read_yaml
from fourm_plugins.manager import PluginError, PluginManager
from tests.recipes.test_config import MINIMAL


def bomb(width: int, levels: int, link: str) -> str:
    """Each level repeats the one before `width` times."""
    lines = ["a0: &a0 [x, x]" if link == "list" else "a0: &a0 {k: x}"]
    for level in range(1, levels):
        aliases = ", ".join([f"*a{level - 1}"] * width)
        lines.append(f"a{level}: &a{level} " + (f"[{aliases}]" if link == "list" else f"{{<<: [{aliases}]}}"))
    return "\n".join(lines)


HOSTILE = {
    "a Python object": "run: !!python/object/apply:os.system ['touch owned']",
    "a Python name": "run: !!python/name:canary.Evil",
    "a Python module": "run: !!python/module:canary",
    "a new Python object": "run: !!python/object/new:canary.Evil []",
    "a tag of one's own": "run: !canary.Evil {}",
    "aliases that double": bomb(10, 12, "list"),
    "merges that double": bomb(10, 12, "merge"),
    "a value that holds itself": "a: &a [*a]",
    "a mapping that holds itself": "a: &a {b: *a}",
    "half a million brackets": "[" * 500_000,
    "deep sections": "".join(f"{' ' * i}a:\n" for i in range(200)) + " " * 200 + "a: 1",
    "a number of a million digits": "seed: " + "9" * 1_000_000,
    "a day that is none": "seed: 2020-13-45",
    "a list for a key": "? [a, b]\n: 1",
    "thirty thousand keys": "\n".join(f"k{i}:" for i in range(30_000)),
    "a pickle": "\x80\x04K\x01.",
    "too much": "#" * (1 << 21),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_file_is_refused_in_one_line_and_at_once(tmp_path, what):
    path = tmp_path / "config.yaml"
    path.write_text(HOSTILE[what], encoding="latin-1")
    began = time.process_time()
    with pytest.raises(ConfigError, match=r"config\.yaml: ") as caught:
        read_yaml(path)
    assert time.process_time() - began < 10
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan", "1e400"])
@pytest.mark.parametrize(
    "key",
    [
        *("train.lr", "train.weight_decay", "train.clip", "train.eps", "train.watchdog_s", "model.mlp_ratio"),
        *("tokenizers.fit.lr", "data.flip", "data.remote.cache_gb", "finetune.lora.alpha", "masking.mixture.0.weight"),
    ],
)
def test_a_number_that_is_not_finite_is_refused_by_its_setting(key, value):
    raw = yaml.safe_load(yaml.safe_dump(MINIMAL))
    raw |= {"masking": raw["masking"] | {"mixture": [{"name": "all"}]}, "finetune": {"source": "x", "lora": {}}}
    apply_override(raw, f"{key}={value}")
    with pytest.raises(ConfigError, match=key.rpartition(".")[2]):
        parse_config(raw, "config.yaml")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.width", 1 << 40),
        ("model.encoder_blocks", 10**9),
        ("model.decoder_blocks", 10**30),
        ("model.size", []),
        ("model.size", {"x": 1}),
        ("train.threads", 10**9),
        ("masking.target_tokens", [1, 10**18]),
        ("masking.encoder_capacity", 10**18),
        ("masking.max_tokens", {"caption": 10**18}),
        ("data.val", "data\0val"),
    ],
)
def test_what_would_take_hours_or_all_memory_is_refused_by_its_setting(key, value):
    raw = yaml.safe_load(yaml.safe_dump(MINIMAL))
    raw |= {"model": {"width": 32, "encoder_blocks": 1, "decoder_blocks": 1, "heads": 2}}
    section, name = key.split(".")
    raw[section] = {**raw[section], name: value}
    with pytest.raises(ConfigError, match=name):
        parse_config(raw, "config.yaml")


@pytest.mark.parametrize("value", ["!!python/object/apply:os.system ['touch owned']", "[" * 100_000, "&a [*a]"])
def test_a_hostile_override_is_refused_as_well(tmp_path, value):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(MINIMAL))
    with pytest.raises(ConfigError, match="override"):
        load_config(path, [f"modalities.settings={value}"])


def test_aliases_as_people_use_them_are_read(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("size: &size {image_size: 64}\nsettings: {rgb: *size, depth: {<<: *size, patch_size: 8}}\n")
    assert read_yaml(path)["settings"]["depth"] == {"image_size": 64, "patch_size": 8}


@pytest.mark.parametrize(
    "settings",
    [
        {"../../owned": {"plugin": "rgb"}},
        {"rgb": {"source": "../../owned"}},
        {"rgb": {"source": "/owned"}},
        {"rgb": {"name": "../../owned"}},
        {"rgb": {"plugin": "canary:Evil"}},
        {"rgb": {"plugin": "canary"}},
        {"canary": {}},
        {"rgb": {"tokenizer": {"__class__": "canary.Evil"}, "class_path": "canary.Evil"}},
        {"rgb": {"image_size": 1 << 60}},
        {"rgb": {"codebook_size": 1 << 60}},
    ],
)
def test_names_are_neither_paths_nor_code(settings):
    with pytest.raises(PluginError) as caught:
        load_modalities(ModalitiesConfig(settings=settings, select=list(settings)), PluginManager())
    assert "\n" not in str(caught.value)


def test_an_override_changes_one_of_the_sections_that_an_anchor_names(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("rgb: {tokenizer: &codec {blocks: [1, {width: 2}]}}\ndepth: {tokenizer: *codec}\n")
    raw = read_yaml(path)
    apply_override(raw, "rgb.tokenizer.blocks.1.width=3")
    apply_override(raw, "rgb.tokenizer.mlp=4")
    assert raw == {
        "rgb": {"tokenizer": {"blocks": [1, {"width": 3}], "mlp": 4}},
        "depth": {"tokenizer": {"blocks": [1, {"width": 2}]}},
    }

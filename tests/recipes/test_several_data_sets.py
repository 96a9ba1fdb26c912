"""Every command takes a list of data sets."""

from __future__ import annotations

import json
import os

import pytest
import yaml

from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.sets import data_sets
from fourm_engine.modalities import load_manager
from fourm_engine.recipes.config import RunConfig, load_config
from fourm_engine.recipes.data_check import check_config
from fourm_engine.recipes.evaluate_tokenizers import evaluate_tokenizers
from fourm_engine.recipes.fit import fit
from fourm_engine.recipes.tokenize import tokenize, tokenize_data
from fourm_engine.recipes.train import train
from fourm_engine.yaml_config import ConfigError
from tests.configs import GRID, small, store
from tests.folders import write_examples


@pytest.fixture
def path(tmp_path):
    """The config of two data sets, six samples of two modalities and four of one, and of held-out samples."""
    for folder, names, samples in (("x", ("rgb", "depth"), 6), ("y", ("rgb",), 4), ("val", ("rgb", "depth"), 3)):
        for name in names:
            write_examples(tmp_path / folder / name, name, samples, seed=len(folder))
    data = {"val": str(tmp_path / "val"), "tokens": str(tmp_path / "tokens/val")}
    data["train"] = [
        {"path": str(tmp_path / name), "tokens": str(tmp_path / "tokens" / name), "weight": weight}
        for name, weight in (("x", 3), ("y", 1))
    ]
    raw = small(tmp_path, {"rgb": GRID, "depth": GRID}, data=data, train={"threads": 1})
    return store(tmp_path / "config.yaml", raw)


@pytest.mark.slow
def test_tokenizers_are_fitted_to_all_of_them_and_each_is_tokenized_and_trained_on(path, tmp_path):
    config, told = load_config(path), list[str]()
    (report,) = fit(config, spaces=["rgb"], print_fn=told.append)
    assert [line.split(" (")[0] for line in report.data] == ["train: 6 samples", "train: 4 samples", "val: 3 samples"]
    fit(config, print_fn=told.append)
    reports = tokenize(config, print_fn=told.append)
    assert {name: report.counts for name, report in reports.items()} == {
        "train.0": {"depth": 6, "rgb": 6},
        "train.1": {"rgb": 4},
        "val": {"depth": 3, "rgb": 3},
    }
    assert sorted(p.name for p in (tmp_path / "tokens").glob("*/*")) == ["train", "train", "val"]
    measured = evaluate_tokenizers(config, samples=2, pictures=0)
    assert [one.modality for one in measured.tokenizers] == ["depth", "rgb"]

    train(config, print_fn=told.append)
    (described,) = [line for line in told if "2 data sets" in line]
    assert "  75.00% 6 samples" in described
    assert "  25.00% 4 samples" in described
    row = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[0])
    assert 0 <= row["data_wait"] <= 1

    stored = load_config(tmp_path / "run/config.yaml")
    assert stored.data == config.data
    again = load_config(path, ["data.train.1.weight=2", "train.steps=3"])
    with pytest.raises(ValueError, match=r"data\.train\.1\.weight was 1\.0, is 2\.0"):
        train(again, print_fn=told.append)
    with pytest.raises(ValueError, match=r"data\.lanes was 1, is 4"):
        train(config.model_copy(update={"data": config.data.model_copy(update={"lanes": 4})}), print_fn=told.append)


@pytest.fixture
def renamed(path, tmp_path):
    """The config of two data sets of which the second keeps its pictures in another folder."""
    (tmp_path / "y/rgb").rename(tmp_path / "y/pictures")
    raw = yaml.safe_load(path.read_text())
    raw["modalities"]["select"] = "installed"
    raw["data"]["train"][1]["sources"] = {"rgb": "pictures"}
    store(path, raw)
    return path


def test_each_data_set_may_have_sources_of_its_own(renamed, tmp_path):
    config = load_config(renamed)
    modalities = config.load_modalities(load_manager(config.modalities))
    assert sorted(modalities) == ["depth", "rgb", "rgb@pixels"]
    first, second = data_sets(config.data, modalities)
    assert (first.modalities["rgb"].spec.source, second.modalities["rgb"].spec.source) == ("rgb", "pictures")
    assert second.modalities["rgb@pixels"].spec.source == "pictures"  # which reads the same files
    assert second.modalities["rgb"].identity() == modalities["rgb"].identity()
    counts = [AlignedData.from_config(one.modalities, one.config, training=True).counts for one in (first, second)]
    assert counts == [{"depth": 6, "rgb": 6, "rgb@pixels": 6}, {"depth": 0, "rgb": 4, "rgb@pixels": 4}]
    check = check_config(config)
    assert [(part.name, len(part.names)) for part in check.parts] == [("train.0", 6), ("train.1", 4), ("val", 3)]
    assert not [finding for finding in check.problems if finding.kind == "missing" and "rgb" in finding.message]


def test_a_source_of_a_modality_that_takes_no_part_or_has_no_sub_folder_is_named(renamed):
    with pytest.raises(ConfigError, match=r"data\.train\.1\.sources\.rgb: .*pattern.*'\.\./pictures'"):
        load_config(renamed, ["data.train.1.sources.rgb=../pictures"])
    config = load_config(renamed, ["data.train.1.sources.depht=maps"])
    with pytest.raises(ValueError, match=r"^data\.train\.1\.sources: 'depht' takes no part; there are"):
        config.load_modalities(load_manager(config.modalities))


@pytest.mark.slow
def test_data_sets_with_sources_of_their_own_are_tokenized_and_trained_on(renamed, tmp_path):
    config = load_config(renamed)
    fit(config, print_fn=list[str]().append)
    reports = tokenize(config, print_fn=list[str]().append)
    assert reports["train.1"].counts["rgb"] == 4
    train(config, print_fn=list[str]().append)
    changed = load_config(renamed, ["data.train.0.sources.rgb=other", "train.steps=3"])
    (tmp_path / "x/rgb").rename(tmp_path / "x/other")
    with pytest.raises(ValueError, match=r"data\.train\.0\.sources\.rgb was"):
        train(changed, print_fn=list[str]().append)


def test_lists_without_tokens_or_paths_are_errors_of_the_commands_that_need_them(path, tmp_path):
    raw = yaml.safe_load(path.read_text())
    raw["data"] |= {"train": [{"path": str(tmp_path / "x")}], "tokens": None}
    config = RunConfig.model_validate(raw)
    with pytest.raises(ValueError, match=r"no entry of the list data\.train has both path and tokens"):
        tokenize_data(config, config.load_modalities(load_manager(config.modalities)), {})
    raw["data"]["train"] = [{"tokens": str(tmp_path / "t")}]
    with pytest.raises(ValueError, match=r"no entry of the list data\.train has a path"):
        fit(RunConfig.model_validate(raw))


def test_an_override_changes_an_entry_of_the_list(path):
    assert load_config(path, ["data.train.1.weight=5"]).data.sets[1].weight == 5
    with pytest.raises(ConfigError, match="'2' is no entry of the list, which has 0 to 1"):
        load_config(path, ["data.train.2.weight=5"])
    with pytest.raises(ConfigError, match=r"data\.train\.0\.wieght: unknown key; did you mean data\.train\.0\.weight"):
        load_config(path, ["data.train.0.wieght=5"])


def test_a_moved_run_finds_each_of_its_data_sets_or_names_the_entry(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    raw = yaml.safe_load(path.read_text().replace(f"{tmp_path}/", ""))
    RunConfig.model_validate(raw).store()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "tokens").mkdir()
    for folder in ("x", "y", "val"):
        (tmp_path / "tokens" / folder).mkdir()
    config = load_config("../run/config.yaml")
    assert [os.path.relpath(one.path, tmp_path) for one in config.data.sets] == ["x", "y"]
    (tmp_path / "y").rename(tmp_path / "z")
    with pytest.raises(
        ConfigError, match=r"data\.train\.1\.path: not found, .*; say where it is: data\.train\.1\.path="
    ):
        load_config("../run/config.yaml")
    moved = load_config("../run/config.yaml", ["data.train.1.path=../z"])
    assert os.path.relpath(moved.data.sets[1].path, "..") == "z"
    assert load_config("../run/config.yaml", needed=()).data.train is None

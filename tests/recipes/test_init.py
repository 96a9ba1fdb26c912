"""`fourm init`: the config that it writes is read, runs as it is, and holds out what it says."""

from __future__ import annotations

import json
import re
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.raw.recognition import Match
from fourm_engine.data.raw.survey import Survey
from fourm_engine.data.splits import drawn
from fourm_engine.device import Machine
from fourm_engine.masking.budgets import Budgets
from fourm_engine.recipes.config import load_config
from fourm_engine.recipes.data_sets import index, pack, unpack
from fourm_engine.recipes.fit import fit
from fourm_engine.recipes.init import held_out_share, init
from fourm_engine.recipes.proposal import Chosen, Sizes, config_text
from fourm_engine.recipes.tokenize import tokenize
from fourm_engine.recipes.train import train
from fourm_plugins import bases
from fourm_plugins.manager import PluginManager
from fourm_plugins.recognition import Recognised
from tests.folders import names, write
from tests.plugins.instances import modality
from tests.running import fourm, refused

CPU = Machine(cores=2, memory=8.0)
H100 = Machine(cores=16, memory=128.0, gpu="NVIDIA H100", gpu_memory=79.0)
QUICK = ["tokenizers.fit.steps=2", "tokenizers.fit.warmup=0", "train.steps=2", "train.warmup=0", "data.views=1"]
TINY = ["model.width=32", "model.encoder_blocks=1", "model.decoder_blocks=1", "masking.target_tokens=32"]
ONE_THREAD = ["tokenizers.fit.threads=1", "train.threads=1", "tokenizers.fit.device=cpu", "train.device=cpu"]


def split(config):
    """(names of the training samples, names of the held-out ones)."""
    modalities = config.load_modalities(PluginManager())
    return tuple(AlignedData.from_config(modalities, config.data, training=part).names for part in (True, False))


@pytest.mark.slow
def test_a_folder_with_names_of_its_own_is_trained_on_by_the_config_that_init_writes(here):
    folders = {"My Photos": "rgb", "Tiefe": "depth", "words": "caption"}
    for folder, kind in folders.items():
        write(here / "photos", folder, kind, names(24))
    told = init(here / "photos", machine=CPU).lines
    assert any("there is no splits.json" in line and "of 24 samples" in line for line in told)
    assert f"  fourm train {here / 'photos.yaml'}" in told or "  fourm train photos.yaml" in told

    config = load_config("photos.yaml", [*QUICK, *ONE_THREAD, *TINY])
    train_names, val_names = split(config)
    assert (len(train_names) + len(val_names), bool(set(train_names) & set(val_names))) == (24, False)
    assert 1 <= len(val_names) <= 4
    assert {report.fresh for report in fit(config, print_fn=told.append)} == {True}
    counts = tokenize(config, print_fn=told.append)
    assert counts["train"].counts == dict.fromkeys(("caption", "depth", "rgb"), len(train_names))
    assert train(config, print_fn=told.append)
    assert (here / "runs/photos/model/config.json").is_file()


class StripSettings(bases.ScalarSettings):
    image_size: int | tuple[int, int] = (1, 32)
    patch_size: int | tuple[int, int] = 1
    lowest: float = 0.0
    highest: float = 1.0


class Strip(bases.ScalarGrid):
    """A row of numbers, such as a sound's levels, which no crop of a picture changes."""

    Settings = StripSettings
    alignment = None


@pytest.mark.parametrize(("machine", "tokens"), [(CPU, 64), (H100, 196)])
def test_square_maps_get_the_size_of_the_machine_and_other_shapes_keep_theirs(machine, tokens):
    found = Recognised(1.0, "files")
    rgb, strip = (
        Match(m.name, SimpleNamespace(name=m.name), m.name, found, m, frozenset(names(9)), 9, 1.0)
        for m in (modality("rgb"), Strip("strip"))
    )
    survey = Survey(Path("photos"), None, [rgb, strip])
    sizes = Sizes.fitting(survey, 9, machine)
    assert {"image_size", "patch_size"} <= sizes.of(rgb).keys()
    assert sizes.of(strip).keys() == {"codebook_size"}
    text = config_text(
        survey,
        Chosen({}, train=9, val=0, said=""),
        sizes,
        machine,
        folders=dict.fromkeys(("run", "tokens", "tokenizers"), "x"),
        command="fourm init photos",
    )
    assert f"target_tokens: {tokens + 32} " in text


@pytest.mark.parametrize(
    ("machine", "number"), [(CPU, 1), (CPU, 2), (H100, 40), (Machine(4, 16.0, "a small one", 4.0), 2)]
)
def test_the_config_is_read_for_any_machine_and_number_of_samples_and_each_line_has_a_comment(here, machine, number):
    for folder, kind in (("images", "rgb"), ("captions", "caption"), ("features", "clip")):
        write(here / "photos", folder, kind, names(number))
    init("photos", out=here / "a.yaml", machine=machine)
    config = load_config("a.yaml")
    assert (config.data.val is None) == (number == 1)
    lines = (here / "a.yaml").read_text().splitlines()
    bare = [k for k, line in enumerate(lines) if line and "# " not in line and "# " not in lines[k - 1]]
    assert [lines[k].strip() for k in bare] == ["modalities:", "settings:", "data:", "tokenizers:", "train:"]
    assert max(map(len, lines)) <= 120
    large = machine.gpu_memory > 6
    assert config.model.width == (384 if large else 128)
    assert config.modalities.settings["rgb"]["image_size"] <= 48  # as the pictures


def test_a_whole_picture_is_mostly_shown_and_all_but_its_tokens_predicted_at_once(here):
    for folder, kind in (("images", "rgb"), ("maps", "semseg"), ("objects", "boxes")):
        write(here / "photos", folder, kind, names(12))
    config = init("photos", machine=CPU).config
    modalities = config.load_modalities(PluginManager())
    tokens = {name: modality.spec.layout.num_tokens for name, modality in modalities.items()}
    budgets = Budgets(config.masking, [modality.spec for modality in modalities.values()])
    drawn = [budgets.draw(np.random.default_rng(seed), list(tokens)) for seed in range(200)]
    whole = [one for one in drawn if one.component == "rgb@pixels to all"]
    assert 0.8 < len(whole) / len(drawn) < 0.98
    assert config.loss.average_over == "shares"
    for one in whole:
        assert one.inputs == {"rgb@pixels": tokens["rgb@pixels"]}
        assert one.targets == {name: tokens[name] for name in ("semseg", "boxes")}
    # No row is empty that a whole picture does not fill.
    assert budgets.config.encoder_tokens == tokens["rgb@pixels"]
    others = {name for one in drawn if one not in whole for name in (*one.inputs, *one.targets)}
    assert others == {"rgb", "rgb@pixels", "semseg", "boxes"}


def test_a_picture_is_shown_and_asked_for_as_a_whole_at_the_size_that_a_user_writes_later(here):
    for folder, kind in (("images", "rgb"), ("maps", "semseg"), ("objects", "boxes")):
        write(here / "photos", folder, kind, names(12))
    init("photos", machine=CPU)
    larger = [f"modalities.settings.{name}.image_size=[96, 128]" for name in ("rgb", "rgb@pixels", "semseg")]
    config = load_config(
        "photos.yaml", [*larger, *(line.replace("image_size=[96, 128]", "patch_size=8") for line in larger)]
    )
    modalities = config.load_modalities(PluginManager())
    budgets = Budgets(config.masking, modalities.specs)
    drawn = [budgets.draw(np.random.default_rng(seed), list(modalities)) for seed in range(20)]
    for one in (one for one in drawn if one.component == "rgb@pixels to all"):
        assert (one.inputs["rgb@pixels"], one.targets["semseg"]) == (192, 192)
        assert one.targets["boxes"] == modalities["boxes"].spec.layout.num_tokens


def test_init_says_how_often_training_shows_each_sample_and_measures_held_out_ones_on_the_way(here):
    write(here / "photos", "images", "rgb", names(40))
    report = init("photos", machine=CPU)
    training = report.config.train
    assert (training.steps, training.eval_every, training.keep_best) == (1440, 144, True)
    assert (
        "training: 1,440 steps of 8, 320 passes over 36 samples, 16 crops of each; usual for so little data"
        in report.lines
    )
    assert (
        "# 320 passes over 36 samples, 16 crops of each; usual for so little data" in (here / "photos.yaml").read_text()
    )
    write(here / "one", "images", "rgb", names(1))
    alone = init("one", machine=CPU).config.train
    assert (alone.eval_every, alone.keep_best) == (None, False)


@pytest.mark.parametrize(("kind", "stem", "blocks"), [("rgb", "conv", 2), ("depth", "linear", 3)])
def test_small_models_of_pixels_have_convolutions(here, kind, stem, blocks):
    write(here / "photos", kind, kind, names(9))
    init(here / "photos", machine=CPU)
    model = load_config("photos.yaml").model
    assert (model.stem, model.encoder_blocks) == (stem, blocks)
    assert ("convolutions over pixels" in Path("photos.yaml").read_text()) == (stem == "conv")


@pytest.mark.parametrize(
    ("kind", "machine", "soft"),
    [("depth", CPU, {"depth": 32}), ("semseg", CPU, {}), ("rgb", H100, {}), ("caption", CPU, {})],
)
def test_quantities_of_few_samples_have_soft_targets(here, kind, machine, soft):
    write(here / "photos", kind, kind, names(9))
    assert init(here / "photos", machine=machine).config.loss.soft_targets == soft


def test_one_kind_of_files_is_enough(here):
    write(here / "photos", ".", "rgb", names(5))
    assert init("photos", machine=CPU).config.modalities.select == ["rgb", "rgb@pixels"]
    write(here / "texts", "a", "caption", names(5))
    assert init("texts", machine=CPU).config.modalities.select == ["caption"]


def test_an_existing_file_is_replaced_only_on_request(here):
    write(here / "photos", "images", "rgb", names(2))
    (here / "photos.yaml").write_text("mine")
    with pytest.raises(ValueError, match=r"photos\.yaml: already exists; .*--out.*--force"):
        init("photos", machine=CPU)
    assert (here / "photos.yaml").read_text() == "mine"
    init("photos", machine=CPU, force=True)
    load_config("photos.yaml")


@pytest.mark.parametrize("fault", ["twice", "truncated"])
def test_a_modality_that_one_file_leaves_out_is_named_with_what_to_do(here, fault):
    for folder, kind in (("images", "rgb"), ("depth", "depth")):
        write(here / "photos", folder, kind, names(4))
    one = min((here / "photos/depth").glob("*.png"))
    if fault == "twice":
        bad = one.with_suffix(".PNG")
        bad.write_bytes(one.read_bytes())
    else:
        bad = here / "photos/depth/0.tar"
        with tarfile.open(bad, "w") as tar:
            tar.add(one, "other.png")
        bad.write_bytes(bad.read_bytes()[:600])
    report = init("photos", machine=CPU)
    assert report.config.modalities.select == ["rgb", "rgb@pixels"]
    (note,) = (line for line in report.lines if line.startswith("note: "))
    assert bad.name in note
    assert note.endswith("depth/ is left out of the config until you run `fourm init` again (--force)")
    bad.unlink()
    assert "depth" in init("photos", machine=CPU, force=True).config.modalities.select


def test_the_lists_of_splits_json_are_used_whatever_they_are_called(here):
    write(here / "photos", "images", "rgb", names(10))
    lists = {"all": names(10), "training": names(7), "valid": names(10)[7:9]}
    (here / "photos/splits.json").write_text(json.dumps(lists))
    report = init("photos", machine=CPU)
    assert (report.config.data.train_split, report.config.data.val_split) == ("training", "valid")
    assert split(report.config) == (names(7), names(10)[7:9])
    assert any("trained on list training, list valid of 2 samples is held out" in line for line in report.lines)

    (here / "photos/splits.json").write_text(json.dumps({"a": names(8)}))
    report = init("photos", machine=CPU, force=True)
    assert (report.config.data.train_split, report.config.data.val) == ("a", None)
    (here / "photos/splits.json").write_text(json.dumps({"a": ["nothing"]}))
    with pytest.raises(ValueError, match=r"splits\.json: none of its samples is in the folder"):
        init("photos", machine=CPU, force=True)


def test_folders_called_train_and_val_are_the_parts(here):
    for part, number in (("train", 6), ("val", 3)):
        write(here / "apart" / part, "images", "rgb", names(number))
        write(here / "below" / "images" / part, ".", "rgb", names(number))
        write(here / "below" / "labels" / part, ".", "semseg", names(number))
    config = init("apart", machine=CPU).config
    assert (str(config.data.train), str(config.data.val)) == ("apart/train", "apart/val")
    config = init("below", machine=CPU).config
    assert config.data.held_out == ("val",)
    assert [len(part) for part in split(config)] == [6, 3]


@pytest.mark.parametrize("number", [2, 3, 9, 24, 30, 100, 5000, 40_000])
def test_a_tenth_is_held_out_at_least_one_and_no_more_than_a_thousand(number):
    some = frozenset(names(number))
    share = held_out_share(some)
    held_out = sum(drawn(name) < share for name in some)
    wanted = max(1, round(min(number, 10_000) / 10))
    assert 0.9 * wanted <= held_out <= min(1.1 * wanted, 1000)
    assert len(str(share)) < 7  # as one would write it


def test_the_command_tells_what_it_found_and_what_comes_next(here):
    write(here / "my photos", "images", "rgb", names(3))
    said = fourm("init", "my photos")
    assert re.search(r"^rgb: 3 samples in my photos/images: colour pictures$", said, re.MULTILINE)
    assert "then run\n  fourm data check 'my photos.yaml'\n  fourm tokenizer fit 'my photos.yaml'" in said
    assert "  fourm tokenize 'my photos.yaml'" in said
    assert refused("init", "nowhere") == "nowhere: no such folder"
    write(here / "two\nlines", "images", "rgb", names(3))
    assert "wrote two_lines.yaml" in fourm("init", "two\nlines")
    assert "samples of two\\nlines" in fourm("data", "check", "two_lines.yaml")


@pytest.mark.parametrize("indexed", [False, True])
def test_webdataset_shards_whose_members_name_their_modality_are_recognised_also_with_an_index(here, indexed):
    for folder, kind in (("pictures", "rgb"), ("depth", "depth")):
        write(here / "loose", folder, kind, names(20))
    with tarfile.open(here / "shard-00000.tar", "w") as tar:
        for path in sorted((here / "loose").rglob("*.*")):
            tar.add(path, f"{path.stem}.{path.parent.name}{path.suffix}")
    (here / "shards").mkdir()
    (here / "shard-00000.tar").rename(here / "shards/shard-00000.tar")
    if indexed:
        index(here / "shards", modalities=["depth"])
    found = init("shards", machine=CPU)
    settings = found.config.modalities.settings
    assert {name: settings[name]["source"] for name in settings} == {
        "depth": "depth",
        "rgb": "pictures",
        "rgb@pixels": "pictures",
    }
    assert len(frozenset().union(*split(found.config))) == 20
    assert not any("not read" in line for line in found.lines)


def test_the_index_of_a_data_set_is_not_read_as_data(here):
    write(here / "photos", ".", "depth", names(20))
    (here / "photos/_index").mkdir()
    np.save(here / "photos/_index/sizes.npy", np.ones((4, 4), np.float32))
    found = init("photos", machine=CPU)
    assert len(frozenset().union(*split(found.config))) == 20


def test_the_written_config_says_how_a_folder_is_indexed_packed_and_unpacked(here):
    for folder, kind in (("images", "rgb"), ("ranges", "depth")):
        write(here / "photos", folder, kind, names(6))
    init("photos", machine=CPU)
    with pytest.raises(ValueError, match=r"photos: holds no data of any modality; .*--config"):
        index(here / "photos")
    config = here / "photos.yaml"
    assert len(index(here / "photos", config=config).names) == 6
    assert pack(here / "photos", here / "shards", config=config).samples == 6
    assert unpack(here / "shards", here / "loose", config=config, modalities=["depth"]).samples == 6
    assert [path.name for path in (here / "loose").iterdir() if path.is_dir()] == ["ranges"]

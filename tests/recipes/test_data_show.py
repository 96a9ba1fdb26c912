"""`fourm data show`: what is shown is what is trained on."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from fourm_engine.data.config import DataConfig
from fourm_engine.data.samples import MaskedSamples
from fourm_engine.evaluate.masks import DROPPED, SHOWN, TARGET, overlay
from fourm_engine.modalities import load_manager
from fourm_engine.recipes.config import load_config
from fourm_engine.recipes.data_show import show
from fourm_engine.recipes.fit import fit
from fourm_engine.tokenizers.store import load_tokenizers
from tests.configs import small, store
from tests.folders import write_examples
from tests.running import fourm, silent

WORDS = {"max_tokens": 48, "text": {"vocabulary_size": 400, "coordinate_bins": 16}}


@pytest.fixture
def config(tmp_path):
    """Of pictures (patches of pixels) and captions; the last training sample has no caption, the last picture cannot
    be read."""
    root = tmp_path / "data"
    for name in ("rgb", "caption"):
        write_examples(root / name, name, 8, prefix="s")
    (root / "caption" / "s5.txt").unlink()
    (root / "rgb" / "s7.png").write_bytes(b"no picture")
    names = [f"s{k}" for k in range(8)]
    (root / "splits.json").write_text(json.dumps({"train": names[:6], "val": names[6:]}))
    settings = {"rgb@pixels": {"image_size": 32, "patch_size": 8}, "caption": WORDS}
    data = {"val": str(root), "train_split": "train", "val_split": "val", "augment": True}
    raw = small(tmp_path, settings, data=data, masking={"input_tokens": [4, 20]})
    return load_config(store(tmp_path / "config.yaml", raw))


@pytest.fixture
def fitted(config):
    fit(config, print_fn=silent)
    return config


def samples_of(config, training=True):
    manager = load_manager(config.modalities)
    modalities = config.load_modalities(manager)
    tokenizers = load_tokenizers(config.tokenizers.folder, modalities.token_spaces, manager, modalities=modalities)
    return MaskedSamples.from_config(
        config.data,
        config.masking,
        modalities,
        tokenizers,
        modalities.vocabulary(),
        seed=config.seed,
        training=training,
        batch_size=config.train.batch_size,
        masker_class=manager.masker_class,
    )


@pytest.mark.parametrize("epoch", [0, 2])
def test_the_mask_is_that_of_the_packed_sample_at_the_position(fitted, epoch):
    samples = samples_of(fitted)
    for name in ("s0", "s1", "s2"):
        sample = show(fitted, name, epoch=epoch)
        assert epoch * len(samples) <= sample.position < (epoch + 1) * len(samples)
        packed = samples[sample.position]
        pixels = next(one for one in sample.modalities if one.name == "rgb@pixels")
        index = samples.vocabulary["rgb@pixels"].index
        assert np.flatnonzero(pixels.states == SHOWN).tolist() == sorted(packed.encoder[1, packed.encoder[2] == index])
        assert not (pixels.states == TARGET).any()  # pixels are input only
        words = next(one for one in sample.modalities if one.name == "caption")
        index = samples.vocabulary["caption"].index
        assert words.taken == ((packed.encoder[2] == index).sum(), (packed.decoder[2] == index).sum())
        assert all(taken <= budget for one in sample.modalities for taken, budget in zip(one.taken, one.budgets))
        assert sample.totals == (packed.encoder.shape[1], packed.decoder.shape[1])
        assert sample.component == packed.component


def test_the_position_is_that_of_the_run_whose_data_is_read_in_lanes(fitted, monkeypatch):
    monkeypatch.setattr("fourm_engine.data.order.FULL_ROWS", 0)
    lanes = fitted.model_copy(update={"data": fitted.data.model_copy(update={"lanes": 2})})
    samples = samples_of(lanes)
    assert samples.order.lanes == 2
    shown = [show(lanes, f"s{k}", epoch=1) for k in range(5)]
    assert [samples.name(one.position) for one in shown] == [f"s{k}" for k in range(5)]
    assert [one.component for one in shown] == [samples[one.position].component for one in shown]
    assert [one.position for one in shown] != [show(fitted, f"s{k}", epoch=1).position for k in range(5)]


def test_a_sample_of_one_of_several_data_sets_is_shown_at_its_position_in_their_mixture(fitted, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(tmp_path / "data", other)
    for path in [*other.glob("*/*.*")]:
        path.rename(path.with_name(f"t{path.name}"))
    (other / "splits.json").unlink()
    sets = ({"path": str(tmp_path / "data"), "split": "train", "weight": 1}, {"path": str(other), "weight": 5})
    data = DataConfig.model_validate(fitted.data.model_dump() | {"train": list(sets), "train_split": None})
    both = fitted.model_copy(update={"data": data})
    samples = samples_of(both)
    for name in ("s1", "ts1", "ts6"):
        for epoch in (0, 3):
            sample = show(both, name, epoch=epoch)
            assert (sample.sample, sample.part) == (name, "train")
            assert samples.name(sample.position) == name
            assert sample.component == samples[sample.position].component
    shutil.rmtree(fitted.tokenizers.folder)
    assert show(both, "ts1").position is None


def test_the_picture_is_the_one_that_the_model_gets(fitted):
    samples = samples_of(fitted)
    sample = next(one for k in range(5) if (one := show(fitted, f"s{k}")).modalities[1].taken[0])
    packed, pixels = samples[sample.position], sample.modalities[1]
    assert pixels.seen.size == (32, 32)
    first = int(packed.encoder[1, packed.encoder[2] == samples.vocabulary["rgb@pixels"].index][0])
    row, column = divmod(first, 4)  # of the first patch that is shown
    patch = np.asarray(pixels.seen, np.float32)[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] / 255
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    whole = samples.store.load(list(samples.store.names).index(sample.sample), "rgb@pixels", sample.view)
    assert np.abs((patch - mean) / deviation - whole[first].reshape(8, 8, 3)).max() < 0.02


def test_input_and_target_of_a_text_make_the_text_again(fitted):
    long = fitted.model_copy(update={"masking": fitted.masking.model_copy(update={"target_tokens": (60, 60)})})
    rebuilt = 0
    for name in ("s0", "s1", "s2", "s3", "s4"):
        words = show(long, name).modalities[0]
        given, target = (text.split() for text in words.words)
        if not given:
            continue
        spans: dict[str, list[str]] = {}
        for part in target:
            if part[0] == "⟨" and part != "⟨end⟩":
                spans[part] = span = []
            else:
                span.append(part)
        text = [word for part in given for word in spans.get(part, [part]) if word != "⟨end⟩"]
        assert " ".join(text).replace(" ##", "") == words.decoded
        rebuilt += 1
    assert rebuilt


def test_colours_of_the_overlay_are_the_states():
    grid = np.array([[SHOWN, TARGET], [DROPPED, SHOWN]])
    picture = np.asarray(overlay(Image.new("RGB", (8, 8), (0, 0, 200)), grid))
    half = len(picture) // 2
    clear, target, dropped = (picture[y + half // 2, x + half // 2].tolist() for y, x in ((0, 0), (0, half), (half, 0)))
    assert clear == [0, 0, 200]
    assert target[0] > target[1] > 0
    assert max(dropped) - min(dropped) < 40


def test_another_view_and_another_seed_can_be_shown(fitted):
    first, same = show(fitted, "s1"), show(fitted, "s1", view=3)
    assert (same.view, same.position) == (3, first.position)
    assert same.crops != first.crops
    states = [one.states for one in (first.modalities[1], same.modalities[1])]
    assert np.array_equal(*states)  # the mask is that of the position
    with pytest.raises(ValueError, match=r"view 1: val has 1 view per sample, counted from 0"):
        show(fitted, "s6", view=1)
    with pytest.raises(ValueError, match=r"^seed: must be less than"):
        show(fitted, "s1", seed=1 << 63)


def test_a_held_out_sample_is_shown_through_its_centre_crop(fitted):
    sample = show(fitted, "rgb/s6.png")  # a file of it will do
    assert (sample.sample, sample.part, sample.view) == ("s6", "val", 0)
    assert not sample.crops["image"].flip


def test_what_a_sample_lacks_and_what_cannot_be_used_is_said(fitted):
    with pytest.raises(ValueError, match=r"s5 is never trained on: it has rgb@pixels, and no component"):
        show(fitted, "s5")
    with pytest.raises(ValueError, match=r"no sample 'sx' in data.train.*; the nearest are 's7', 's6', 's5'"):
        show(fitted, "sx")


def test_without_tokenizers_pictures_are_shown_and_the_remedy_is_named(config):
    sample = show(config, "s5")
    assert sample.position is None
    assert any("run `fourm tokenizer fit`" in note for note in sample.notes)
    assert "lacks caption" in sample.notes
    assert sample.picture().width > 300


def test_the_command_prints_words_and_writes_a_sheet(fitted, tmp_path):
    out = tmp_path / "sheet.png"
    lines = fourm("data", "show", tmp_path / "config.yaml", "s1", "--out", out).splitlines()
    assert lines[0].startswith("s1 (train, ")
    assert "component 'all2all'" in " ".join(lines)
    assert any(line.startswith("rgb@pixels: ") and "dropped of 16 tokens; budgets " in line for line in lines)
    assert any(line.startswith("  target: ") for line in lines)
    assert Image.open(out).width > 300

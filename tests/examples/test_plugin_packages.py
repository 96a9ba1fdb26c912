"""The packages under examples/plugins, installed as a user's would be: three modalities, a masker, a tokenizer, an
optimiser with a schedule, an observer with a command."""

from __future__ import annotations

import io
import json
import sys
import wave
from pathlib import Path

import numpy as np
import pytest

from fourm_engine.fit.fitting import make_tokenizer
from fourm_engine.masking.pack import build_maskers
from fourm_engine.tokenizers.store import load_tokenizer, save_tokenizer
from fourm_plugins import MASK, SampleError, View
from fourm_plugins.manager import PluginManager
from tests import folders
from tests.configs import small, store
from tests.installing import install
from tests.running import fourm

PACKAGES = sorted((Path(__file__).parents[2] / "examples/plugins").glob("*/pyproject.toml"))
SMALL = {"image_size": 32, "patch_size": 8}


@pytest.fixture
def manager(tmp_path, monkeypatch):
    """The plugin host with the seven packages installed."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(install(site, *(path.parent for path in PACKAGES))))
    before = set(sys.modules)
    yield PluginManager()
    for name in set(sys.modules) - before:
        if name.startswith("acme_"):
            del sys.modules[name]


def test_each_package_is_found_and_ok(manager):
    found = {(p.kind, p.name, p.state) for p in manager.plugins if p.distribution.startswith("acme-")}
    assert found == {
        ("modality", "spectrogram", "ok"),
        ("modality", "thermal", "ok"),
        ("modality", "weather", "ok"),
        ("masker", "blocks", "ok"),
        ("tokenizer", "kmeans", "ok"),
        ("optimiser", "lion", "ok"),
        ("schedule", "inverse_sqrt", "ok"),
        ("observer", "journal", "ok"),
        ("command", "journal", "ok"),
    }


def test_thermal_reads_hundredths_of_a_kelvin_and_leaves_dead_pixels_out(manager):
    from PIL import Image

    thermal = manager.modality("thermal", **SMALL)
    buffer = io.BytesIO()
    Image.fromarray(np.array([[0, 29315], [30315, 31015]], np.uint16)).save(buffer, "PNG")
    value = thermal.read({"png": buffer.getvalue()})
    assert np.allclose(value, [[np.nan, 20], [30, 37]], atol=1e-3, equal_nan=True)
    metrics = {metric.name: metric for metric in thermal.metrics()}
    assert metrics["mean absolute error"].unit == "°C"
    assert metrics["within 1 °C"].compute([value + np.array([[0, 0.5], [2, 0.5]])], [value]) == pytest.approx(2 / 3)


def sound(rate=8000, channels=1, width=2, samples=9000):
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((channels, width, rate, 0, "NONE", ""))
        file.writeframes(b"\1" * (samples * channels * width))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a .wav file: it ends early"),
        (b"RIFFxxxxWAVEnot", "not a .wav file"),
        (sound(width=1), "8 bits; 16-bit PCM is needed"),
        (sound(rate=44100), "44100 samples/s, spectrogram wants 8000; resample, or set sample_rate"),
        (sound(samples=0), "0 samples"),
        (sound()[:-101], "truncated"),
    ],
)
def test_a_sound_that_cannot_be_used_is_refused_with_its_reason(manager, content, reason):
    with pytest.raises(SampleError, match=reason):
        manager.modality("spectrogram").read({"wav": content})


def test_a_tone_is_a_line_at_its_frequency_and_is_heard_again(manager):
    spectrogram = manager.modality("spectrogram")
    time = np.arange(spectrogram.length) / 8000
    tone = (0.5 * np.sin(2 * np.pi * 1000 * time)).astype(np.float32)
    assert np.allclose(spectrogram.read(spectrogram.write(tone)), tone, atol=1e-4)
    array = spectrogram.normalise(tone)[0]
    # 1000 of 4000 Hz is the 32nd of 128 frequencies; half of full scale is -6 dB of 80.
    assert array[:, 30].argmax() == 32
    assert array[32, 30] == pytest.approx(1 - 2 * 6.02 / 80, abs=0.01)
    again = spectrogram.denormalise(array[None])
    assert np.abs(np.fft.rfft(again[1000:7000])).argmax() == 750  # 1000 Hz, at 6000 of 8000 samples
    assert spectrogram.metrics()[0].compute([again], [tone]) < 4


def test_a_long_sound_is_seen_segment_by_segment_and_a_short_one_ends_in_silence(manager):
    spectrogram = manager.modality("spectrogram", image_size=[16, 8], patch_size=8)
    sound = np.arange(300, dtype=np.float32) / 300
    assert spectrogram.length == 128
    assert np.array_equal(spectrogram.augment(sound, View(variant=1)), sound[128:256])
    assert np.array_equal(spectrogram.augment(sound, View(variant=2, flip=True)), sound[:128])
    assert spectrogram.augment(sound[:10], View())[10:].tolist() == [0] * 118


def test_weather_is_a_vector_of_five_tokens_in_the_columns_a_config_names(manager):
    assert manager.modality("weather").spec.layout.num_tokens == 5
    columns = [{"name": "rain", "lowest": 0, "highest": 50, "unit": "mm"}]
    other = manager.modality("weather", columns=columns)
    assert other.render(other.read({"json": b'{"rain": 2.5}'})) == "rain 2.5 mm"


def test_a_config_chooses_the_block_masker_whose_targets_are_one_rectangle(manager):
    modality = manager.modality("thermal", image_size=64, patch_size=8, masker="blocks")
    masker = build_maskers({"thermal": modality}, {}, manager.masker_class)["thermal"]
    ids = np.arange(64) + 100
    shapes = set()
    for seed in range(300):
        rng = np.random.default_rng(seed)
        shown, asked = int(rng.integers(0, 65)), int(rng.integers(0, 65))
        masked = masker.mask(ids, input_budget=shown, target_budget=asked, keep="all", rng=rng)
        assert len(masked.input_ids) <= shown
        assert len(masked.labels) <= asked
        assert not set(masked.input_pos) & set(masked.target_pos)
        assert np.array_equal(masked.labels, ids[masked.target_pos])
        assert np.array_equal(masked.input_ids, ids[masked.input_pos])
        assert (masked.target_ids == MASK).all()
        if asked:
            rows, columns = np.divmod(masked.target_pos, 8)
            height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
            assert height * width == len(masked.labels) > 0  # all of the rectangle, nothing else
            shapes.add((height, width))
    assert len(shapes) > 30
    with pytest.raises(ValueError, match="for grids; this is a vector"):
        build_maskers({"weather": manager.modality("weather", masker="blocks")}, {}, manager.masker_class)


def test_a_config_chooses_the_kmeans_tokenizer_which_is_fitted_stored_and_loaded(manager, tmp_path):
    settings = {**SMALL, "codebook_size": 16, "tokenizer": {"kind": "kmeans", "rounds": 8}}
    thermal = manager.modality("thermal", **settings)
    arrays = [
        thermal.normalise(thermal.augment(thermal.read(files), View(0, 0.125, 1, 0.75)))
        for files in thermal.example_samples(24, seed=0)
    ]
    tokenizer = make_tokenizer([thermal], manager)
    with pytest.raises(ValueError, match="nothing to fit"):
        tokenizer.fit(lambda: iter(()))
    report = tokenizer.fit(lambda: iter(arrays[:20]))
    ids = tokenizer.encode(arrays)
    assert all(row.shape == (16,) and row.dtype == np.int64 and row.min() >= 0 and row.max() < 16 for row in ids)
    assert np.array_equal(tokenizer.encode(arrays[3:4])[0], ids[3])
    one_hot = np.eye(16, dtype=np.float32)[np.stack(ids)]
    decoded = tokenizer.decode(ids)
    assert np.allclose(tokenizer.decode_expected(one_hot), decoded, atol=1e-6)

    held_out = np.stack(arrays[20:])
    known = np.isfinite(held_out)
    error = np.mean((np.stack(decoded[20:])[known] - held_out[known]) ** 2)
    assert error < 0.3 * held_out[known].var()
    assert report["mean squared error"] < 0.3 * held_out[known].var()

    save_tokenizer(tokenizer, tmp_path / "thermal", manager=manager)
    again = load_tokenizer(tmp_path / "thermal", [thermal.spec], manager)
    assert again.fingerprint == tokenizer.fingerprint
    assert all(map(np.array_equal, again.encode(arrays), ids))


def test_kmeans_refuses_what_is_no_feature_map_and_damaged_arrays(manager):
    with pytest.raises(ValueError, match="one feature map on a grid, which weather is not"):
        make_tokenizer([manager.modality("weather", tokenizer={"kind": "kmeans"})], manager)
    with pytest.raises(ValueError, match="round"):
        make_tokenizer([manager.modality("thermal", tokenizer={"kind": "kmeans", "round": 1})], manager)
    spectrogram = manager.modality("spectrogram", image_size=[16, 8], patch_size=8, tokenizer={"kind": "kmeans"})
    tokenizer = make_tokenizer([spectrogram], manager)
    for array in (np.zeros((1, 16, 16), np.float32), np.full((1, 16, 8), np.nan, np.float32), "text"):
        with pytest.raises(ValueError, match="spectrogram"):
            tokenizer.encode([array])


def test_a_run_trains_on_the_three_with_the_masker_and_the_tokenizer_of_its_config(manager, tmp_path):
    """`fourm tokenizer fit`, `tokenize`, `train` and `generate`, as the README has it, in one process."""
    grid = {"codebook_size": 16, "tokenizer": {"kind": "kmeans", "rounds": 3}, "masker": "blocks"}
    settings = {
        "thermal": SMALL | grid,
        "spectrogram": {"image_size": [32, 32], "patch_size": 8} | grid,
        "weather": {"codebook_size": 16},
    }
    for split, first, count in (("train", 0, 12), ("val", 12, 4)):
        for name, given in settings.items():
            modality = manager.modality(name, **given)
            samples = modality.example_samples(first + count, seed=0)[first:]
            folders.store(tmp_path / split / name, samples, [f"{first + i:04d}" for i in range(count)])
    sections = {
        "data": {part: str(tmp_path / part) for part in ("train", "val", "tokens")},
        "masking": {"input_tokens": [1, 24], "target_tokens": 16},
        "train": {"steps": 3, "log_every": 1, "threads": 1},
    }
    path = store(tmp_path / "config.yaml", small(tmp_path, settings, **sections))

    fitted = fourm("tokenizer", "fit", path)
    assert all(f"tokenizer {name}, {name}: " in fitted for name in settings)
    kinds = {name: json.loads((tmp_path / "tokenizers" / name / "tokenizer.json").read_text()) for name in settings}
    assert {name: (kind["kind"], kind["distribution"]) for name, kind in kinds.items()} == {
        "thermal": ("kmeans", "acme-kmeans"),
        "spectrogram": ("kmeans", "acme-kmeans"),
        "weather": ("bins", "fourm-engine"),
    }
    fourm("tokenize", path)
    fourm("train", path, "train.steps=2", "train.optimiser=lion", "train.schedule=inverse_sqrt")
    fourm("train", path, "train.steps=3", "train.optimiser=lion", "train.schedule=inverse_sqrt")
    told = fourm("journal", tmp_path / "run").splitlines()
    assert [line.split(" ", 3)[3].split(":")[0] for line in told] == [
        "fourm starts",
        "step 2",
        "finished after step 2",
        "fourm goes on after step 2",
        "step 3",
        "finished after step 3",
    ]
    row = json.loads(next((tmp_path / "val/weather").iterdir()).read_text())
    given = tmp_path / "weather.json"
    given.write_text(json.dumps(row))
    targets = ("--target", "spectrogram", "--target", "thermal")
    fourm("generate", tmp_path / "run", "--input", f"weather={given}", *targets, "--out", tmp_path / "out")
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"spectrogram.wav", "spectrogram.view.png", "thermal.view.png"} <= written
    with pytest.raises(ValueError, match=r'thermal\.tokenizer\.kind was "kmeans", is "vqvae"; .*--refit'):
        fourm("tokenize", path, "modalities.settings.thermal.tokenizer={kind: vqvae}")

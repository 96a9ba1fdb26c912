"""Two complete plugins that pass every check, as source: `wind`, a grid of vectors with its own tokenizer and masker,
and `notes`, a sentence with its own words and the engine's way of masking. And what installs them, whole or changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from tests.installing import write_metadata

WIND = '''"""Wind: float32 (H, W, 2), metres a second to the right and up."""

import json

import numpy as np
from PIL import Image

from fourm_plugins import (
    MASK,
    FeatureMap,
    Grid,
    Masked,
    Masker,
    Metric,
    Modality,
    ModalitySpec,
    SampleError,
    Settings,
    Tokenizer,
    TokenizerRecipe,
    TokenSpace,
    View,
    images,
)

SIDE, CODES = 16, 26  # the last code is never used
LEVELS = np.linspace(-1, 1, 5).astype(np.float32)


class WindSettings(Settings):
    note: str = "wind"


class Wind(Modality):
    Settings = WindSettings
    claims = frozenset({"directions"})
    made = 0

    def make_spec(self):
        type(self).made += 1
        return ModalitySpec(
            name=self.name,
            layout=Grid(height=4, width=4),
            array=FeatureMap(channels=2, height=SIDE, width=SIDE),
            token_space=TokenSpace(name=self.name, size=CODES),
            tokenizer=TokenizerRecipe(kind="wind_bins"),
            masker="wind_masker",
            source="wind",
            extensions=("npy",),
            description=self.settings.note,
        )

    def read(self, files):
        content = images.only_file(files, ("npy",))[1]
        value = images.decode_array(content, ndim=3).astype(np.float32)
        if value.shape[2] != 2 or not np.isfinite(value).all():
            raise SampleError("two finite numbers a pixel are needed")
        return value

    def write(self, value):
        return {"npy": images.encode_array(value.astype(np.float32))}

    def aspect(self, value):
        return value.shape[1] / value.shape[0]

    def augment(self, value, view):
        seen = images.view_map(value, view, (SIDE, SIDE))
        return seen * np.float32([-1, 1]) if view.flip else seen

    def normalise(self, value):
        return np.ascontiguousarray(value.transpose(2, 0, 1))

    def denormalise(self, array):
        return array.transpose(1, 2, 0).astype(np.float32)

    def render(self, value):
        return Image.fromarray(images.colour_map(np.clip(np.abs(value).sum(2) / 4, 0, 1)))

    def metrics(self):
        return (
            Metric("error upwards", lambda p, t: error(p, t, slice(1, 2)), False, "m/s"),
            Metric("error", lambda p, t: error(p, t, slice(0, 2)), False, "m/s"),
        )

    def constants(self, values):
        stacked = np.stack(values).astype(np.float32)
        return {"one value": np.broadcast_to(np.median(stacked, axis=(0, 1, 2)), values[0].shape).astype(np.float32)}

    def example_samples(self, n, seed):
        samples = []
        regions = np.kron([[0, 1], [2, 3]], np.ones((32, 32), int))
        for index in range(n):
            winds = np.random.default_rng([seed, index]).uniform(-2, 2, (4, 2))
            winds[:2] = 1  # the sky is much the same everywhere
            samples.append(self.write((winds * [1, 0.5])[regions]))
        return samples


def error(predictions, truths, part):
    return float(np.mean([np.abs(p - t)[..., part].mean() for p, t in zip(predictions, truths)]))


class BinsSettings(Settings):
    levels: tuple[int, ...] = ()


class Bins(Tokenizer):
    """Each patch's mean in five levels a component, of the strongest wind seen."""

    kind = "wind_bins"
    Settings = BinsSettings
    strongest = 1.0

    @property
    def fingerprint(self):
        return f"wind_bins {self.strongest:.4f}"

    def fit(self, arrays):
        self.strongest = float(max(np.abs(array).max() for array in arrays()))
        return {}

    def encode(self, arrays):
        return [self.bins(np.nan_to_num(array)) for array in arrays]

    def bins(self, array):
        means = array.reshape(2, 4, 4, 4, 4).mean((2, 4)) / self.scale()
        level = np.abs(means[..., None] - LEVELS).argmin(-1).astype(np.int64)
        return (level[0] * 5 + level[1]).reshape(-1)

    def scale(self):
        return np.float32([self.strongest, self.strongest / 2])[:, None, None]

    def decode(self, ids):
        return [self.patches(np.minimum(np.asarray(row), 24)) for row in ids]

    def patches(self, row):
        means = np.stack([LEVELS[row // 5], LEVELS[row % 5]]).reshape(2, 4, 4) * self.scale()
        return means.repeat(4, 1).repeat(4, 2)

    def save(self, folder):
        (folder / "wind.json").write_text(json.dumps(self.strongest))

    def load(self, folder):
        self.strongest = json.loads((folder / "wind.json").read_text())


class WindMasker(Masker):
    def mask(self, ids, *, input_budget, target_budget, keep, rng):
        order = rng.permutation(len(ids))
        inputs, targets = order[:input_budget], order[input_budget : input_budget + target_budget]
        labels = ids[targets]
        target_ids = np.full(len(targets), MASK)
        return Masked(ids[inputs], inputs, target_ids, targets, np.zeros(len(targets), np.int64), labels)
'''

NOTES = '''"""Notes: one sentence of ten words."""

import numpy as np

from fourm_plugins import (
    Metric,
    Modality,
    ModalitySpec,
    SampleError,
    Sequence,
    Text,
    TextTokenizer,
    TokenizerRecipe,
    TokenSpace,
    View,
    images,
)

WORDS = ("left", "right", "up", "down", "red", "blue", "ball", "cube", "near", "far")
MIRRORED = {"left": "right", "right": "left"}
END, SENTINELS = 0, range(1, 13)
FIRST = 13
CODES = FIRST + len(WORDS) + 10  # more than there are words, so that a draw has enough


class Notes(Modality):
    def make_spec(self):
        return ModalitySpec(
            name=self.name,
            layout=Sequence(max_tokens=16),
            array=Text(max_characters=400),
            token_space=TokenSpace(name=self.name, size=CODES),
            tokenizer=TokenizerRecipe(kind="notes_words"),
            masker="notes_masker",
            source="notes",
            extensions=("txt",),
        )

    def read(self, files):
        content = images.only_file(files, ("txt",))[1]
        try:
            words = content.decode().split()
        except UnicodeDecodeError as error:
            raise SampleError(f"not UTF-8: {error}") from error
        if not words or "\\0" in words[0]:
            raise SampleError("no words")
        return " ".join(words)

    def write(self, value):
        return {"txt": value.encode()}

    def augment(self, value, view):
        return " ".join(MIRRORED.get(word, word) for word in value.split()) if view.flip else value

    def normalise(self, value):
        return value

    def denormalise(self, array):
        return array

    def render(self, value):
        return value

    def metrics(self):
        return (Metric("exact", lambda p, t: float(np.mean([a == b for a, b in zip(p, t)])), True),)

    def example_samples(self, n, seed):
        samples = []
        for index in range(n):
            rng = np.random.default_rng([seed, index])
            samples.append(self.write("left " + " ".join(rng.choice(WORDS[:8], 3)) + " right"))
        return samples


class Words(TextTokenizer):
    kind = "notes_words"
    end_id, sentinel_ids = END, SENTINELS
    fingerprint = "notes_words"

    def fit(self, arrays):
        return {}

    def encode(self, arrays):
        return [np.array([FIRST + WORDS.index(w) for w in text.split() if w in WORDS], np.int64) for text in arrays]

    def decode(self, ids):
        known = {FIRST + i: word for i, word in enumerate(WORDS)}
        return [" ".join(known[i] for i in np.asarray(row).tolist() if i in known) for row in ids]

    def save(self, folder):
        pass

    def load(self, folder):
        pass
'''

NOTES_MASKER = '''"""The engine's spans."""

from dataclasses import replace

import numpy as np

from fourm_engine.masking.span import SpanMasker


class NotesMasker(SpanMasker):
    def mask(self, ids, *, input_budget, target_budget, keep, rng):
        masked = super().mask(ids, input_budget=input_budget, target_budget=target_budget, keep=keep, rng=rng)
        return masked
'''

_PROJECT = """[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "acme-{name}"
version = "1.2"
dependencies = ["fourm-engine>=0.1,<99", "numpy", "pillow"]

{groups}
[tool.setuptools]
py-modules = {modules}
"""
_ENTRIES = {
    "wind": {
        "fourm.modalities.v1": {"wind": "acme_wind:Wind"},
        "fourm.tokenizers.v1": {"wind_bins": "acme_wind:Bins"},
        "fourm.maskers.v1": {"wind_masker": "acme_wind:WindMasker"},
    },
    "notes": {
        "fourm.modalities.v1": {"notes": "acme_notes:Notes"},
        "fourm.tokenizers.v1": {"notes_words": "acme_notes:Words"},
        "fourm.maskers.v1": {"notes_masker": "acme_notes_masker:NotesMasker"},
    },
}
SOURCES = {
    "wind": {"acme_wind.py": WIND},
    "notes": {"acme_notes.py": NOTES, "acme_notes_masker.py": NOTES_MASKER},
}


def install(folder: Path, name: str, changes: Mapping[str, tuple[str, str]]) -> Path:
    """Install `name` below `folder` as an editable installation from a source tree would be; returns the folder to put
    on sys.path. `changes`: file (a module, or pyproject.toml of the source tree) -> (old, new) text."""
    groups = ""
    for group, entries in _ENTRIES[name].items():
        groups += f'[project.entry-points."{group}"]\n' + "".join(f'{k} = "{v}"\n' for k, v in entries.items()) + "\n"
    modules = [file.removesuffix(".py") for file in SOURCES[name]]
    files = dict(SOURCES[name])
    files["pyproject.toml"] = _PROJECT.format(name=name, groups=groups, modules=json.dumps(modules))
    for file, (old, new) in changes.items():
        assert files[file].count(old) == 1, f"{old!r} stands {files[file].count(old)} times in {file}"
        files[file] = files[file].replace(old, new)
    site, tree = folder / "site", folder / "tree"
    for root in (site, tree):
        root.mkdir()
        for file, text in files.items():
            (root / file).write_text(text)
    (site / "acme.dat").write_text("beside the modules, and in no wheel")
    entry_points = ""
    for group, entries in _ENTRIES[name].items():
        entry_points += f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in entries.items())
    write_metadata(site, f"acme-{name}", "1.2", entry_points, tree=tree)
    return site

"""Four tiny modalities of every layout, their tokenizers and a model over them, as plugins would bring them."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fourm_engine.modalities import Modalities
from fourm_engine.model import FourM
from fourm_engine.nn.transformer import ModelConfig, Transformer
from fourm_engine.vocabulary import Vocabulary
from fourm_plugins import (
    FeatureMap,
    FeatureVector,
    Grid,
    Modality,
    ModalitySpec,
    SampleError,
    Sequence,
    Settings,
    Text,
    TextTokenizer,
    Tokenizer,
    TokenizerRecipe,
    TokenSpace,
    Vector,
)
from fourm_plugins.manager import PluginManager
from tests.fakes import Unfitted
from tests.installing import write_metadata

SIDE = 8  # pixels; 4 x 4 tokens
ALPHABET = "abcdefghijklmnopqrstuvwxyz "


class Colour(Modality):
    """uint8 (H, W, 3); as tokens, or as pixels."""

    class Settings(Settings):
        pixels: bool = False
        codes: int = 16

    def make_spec(self):
        tokens = {
            "tokenizer": TokenizerRecipe(kind="toy_bins"),
            "token_space": TokenSpace(name=self.name, size=self.settings.codes),
        }
        return ModalitySpec(
            name=self.name,
            source="colour",
            extensions=("png",),
            layout=Grid(height=4, width=4),
            array=FeatureMap(channels=3, height=SIDE, width=SIDE),
            expected_decoding=not self.settings.pixels,
            target=not self.settings.pixels,
            **({} if self.settings.pixels else tokens),
        )

    def read(self, files):
        try:
            return np.asarray(Image.open(io.BytesIO(files["png"])).convert("RGB"))
        except OSError as error:
            raise SampleError(f"no picture: {error}") from None

    def write(self, value):
        Image.fromarray(value).save(buffer := io.BytesIO(), "png")
        return {"png": buffer.getvalue()}

    def aspect(self, value):
        return value.shape[1] / value.shape[0]

    def augment(self, value, view):
        box = view.pixels(*value.shape[:2])
        return np.asarray(Image.fromarray(value).resize((SIDE, SIDE), Image.Resampling.BOX, box=box))

    def normalise(self, value):
        if value.dtype != np.uint8:
            raise SampleError(f"a picture is uint8, not {value.dtype}")
        return (value.astype(np.float32) / 127.5 - 1).transpose(2, 0, 1)

    def denormalise(self, array):
        return ((array.transpose(1, 2, 0) + 1) * 127.5).clip(0, 255).round().astype(np.uint8)

    def render(self, value):
        return Image.fromarray(value)

    def metrics(self):
        return ()

    def example_samples(self, n, seed):
        rng = np.random.default_rng(seed)
        return [self.write(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)) for _ in range(n)]


class Height(Colour):
    """float32 (H, W) in [-1, 1]."""

    class Settings(Settings):
        codes: int = 8

    def make_spec(self):
        return ModalitySpec(
            name=self.name,
            source="height",
            extensions=("npy",),
            layout=Grid(height=4, width=4),
            array=FeatureMap(channels=1, height=SIDE, width=SIDE),
            tokenizer=TokenizerRecipe(kind="toy_bins"),
            token_space=TokenSpace(name="height", size=self.settings.codes),
            expected_decoding=True,
        )

    def read(self, files):
        return np.frombuffer(files["npy"], np.float32).reshape(SIDE, SIDE)

    def augment(self, value, view):
        return np.asarray(Image.fromarray(value).resize((SIDE, SIDE), box=view.pixels(*value.shape)))

    def normalise(self, value):
        return value[None].astype(np.float32)

    def denormalise(self, array):
        return array[0]

    def render(self, value):
        return Image.fromarray(((value + 1) * 127.5).clip(0, 255).astype(np.uint8)).convert("RGB")

    def write(self, value):
        return {"npy": value.tobytes()}


class Words(Modality):
    """A string."""

    class Settings(Settings):
        max_tokens: int = 10

    def make_spec(self):
        return ModalitySpec(
            name=self.name,
            source="words",
            extensions=("txt",),
            layout=Sequence(max_tokens=self.settings.max_tokens),
            array=Text(),
            tokenizer=TokenizerRecipe(kind="letters"),
            token_space=TokenSpace(name="letters", size=len(ALPHABET) + 8, shared=True),
            alignment=None,
        )

    def read(self, files):
        return tuple(files["txt"].decode().split("\n"))

    def write(self, value):
        return {"txt": value.encode()}

    def augment(self, value, view):
        return value[view.variant % len(value)]

    def normalise(self, value):
        if not isinstance(value, str):
            raise SampleError("not a string")
        return value

    def denormalise(self, array):
        return array

    def render(self, value):
        return value

    def metrics(self):
        return ()

    def example_samples(self, n, seed):
        return [{"txt": b"abc"}] * n


class Pose(Words):
    """float32 (6,) in [-1, 1]."""

    Settings = Settings

    def make_spec(self):
        return ModalitySpec(
            name=self.name,
            source="pose",
            extensions=("npy",),
            layout=Vector(length=3),
            array=FeatureVector(size=6),
            tokenizer=TokenizerRecipe(kind="toy_bins"),
            token_space=TokenSpace(name="pose", size=5),
            alignment=None,
        )

    def read(self, files):
        return np.frombuffer(files["npy"], np.float32)

    def write(self, value):
        return {"npy": np.asarray(value, np.float32).tobytes()}

    def augment(self, value, view):
        return value

    def normalise(self, value):
        return np.asarray(value, np.float32)


class Bins(Tokenizer):
    """The mean of each patch, in equal bins of [-1, 1]."""

    kind = "toy_bins"

    @property
    def fingerprint(self):
        return hashlib.sha256(f"bins {self.size}".encode()).hexdigest()[:16]

    def fit(self, arrays):
        return {}

    def encode(self, arrays):
        return [self._bin(self._means(np.asarray(array))) for array in arrays]

    def decode(self, ids):
        return [self._spread((np.asarray(row) + 0.5) / self.size * 2 - 1) for row in ids]

    def decode_expected(self, probabilities):
        centres = (np.arange(self.size) + 0.5) / self.size * 2 - 1
        return [self._spread(row) for row in probabilities @ centres]

    def save(self, folder: Path):
        (folder / "bins.json").write_text(json.dumps({"size": self.size}))

    def load(self, folder: Path):
        if json.loads((folder / "bins.json").read_text()) != {"size": self.size}:
            raise ValueError(f"{folder / 'bins.json'} does not fit")

    def _means(self, array):
        if array.ndim == 1:
            return array.reshape(self.spec.layout.num_tokens, -1).mean(1)
        return array.reshape(len(array), 4, SIDE // 4, 4, SIDE // 4).mean((0, 2, 4)).reshape(-1)

    def _bin(self, means):
        return np.clip((means + 1) / 2 * self.size, 0, self.size - 1).astype(np.int64)

    def _spread(self, means):
        if isinstance(self.spec.array, FeatureVector):
            return np.repeat(means, 2).astype(np.float32)
        plane = np.repeat(np.repeat(means.reshape(4, 4), SIDE // 4, 0), SIDE // 4, 1)
        return np.repeat(plane[None], self.spec.array.channels, 0).astype(np.float32)


class Letters(Unfitted, TextTokenizer):
    """[PAD] 0, [END] 1, sentinels 2..7, then letters."""

    kind = "letters"
    fingerprint = "letters"
    end_id = 1
    sentinel_ids = range(2, 8)

    def encode(self, arrays):
        return [np.array([ALPHABET.index(c) + 8 for c in text if c in ALPHABET], np.int64) for text in arrays]

    def decode(self, ids):
        return ["".join(ALPHABET[i - 8] for i in row if i >= 8) for row in ids]


PLUGINS = {"colour": Colour, "height": Height, "pose": Pose, "words": Words}
TOKENIZERS = {"toy_bins": Bins, "letters": Letters}


def modalities() -> dict[str, Modality]:
    made = {name: cls(name) for name, cls in PLUGINS.items()}
    made["colour@pixels"] = Colour("colour@pixels", pixels=True)
    return dict(sorted(made.items()))


def tokenizers(mods: dict[str, Modality]) -> dict[str, Tokenizer]:
    specs = {name: m.spec for name, m in mods.items() if not m.spec.continuous}
    return {name: TOKENIZERS[spec.tokenizer.kind]([spec]) for name, spec in specs.items()}


def network(mods: dict[str, Modality], seed: int = 1) -> tuple[Transformer, Vocabulary]:
    """Random weights whose answers depend visibly on everything they see."""
    vocabulary = Vocabulary.build(m.spec for m in mods.values())
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = Transformer(ModelConfig(width=32, encoder_blocks=2, decoder_blocks=2, heads=4, bias=True), vocabulary)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
            net.heads.weight.normal_(std=0.2)
    return net.eval(), vocabulary


def install(folder: Path, names: list[str], *, kinds: bool = True, version: str = "1.0") -> None:
    """Distributions toy-<name>, one a modality, and toy-kinds with the tokenizers, as pip would leave them."""
    classes = {name: PLUGINS[name].__name__ for name in names}
    groups = {f"toy-{name}": f"[fourm.modalities.v1]\n{name} = {__name__}:{cls}\n" for name, cls in classes.items()}
    if kinds:
        groups["toy-kinds"] = f"[fourm.tokenizers.v1]\ntoy_bins = {__name__}:Bins\nletters = {__name__}:Letters\n"
    for distribution, entry_points in groups.items():
        write_metadata(folder, distribution, version, entry_points)


def install_all(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All the toys in `site`, which is on the path of this test."""
    install(site, list(PLUGINS))
    monkeypatch.syspath_prepend(str(site))


def uninstall(site: Path, name: str) -> None:
    for file in (info := next(site.glob(f"toy_{name}-*"))).iterdir():
        file.unlink()
    info.rmdir()


def make_model() -> FourM:
    """A model over all toys, with random weights; they must be installed."""
    manager = PluginManager()
    found = [manager.modality(name) for name in PLUGINS]
    found.append(manager.modality("colour@pixels", plugin="colour", pixels=True))
    plugins = {m.name: manager.find("modality", m.name.partition("@")[0]) for m in found}
    made = Modalities(found, plugins)
    net, vocabulary = network(made)
    return FourM(net, made, tokenizers(made), vocabulary)


def saved_run(folder: Path, monkeypatch: pytest.MonkeyPatch, values: Mapping[str, list], name: str) -> Path:
    """The run of a model over the toys, and in `folder/data` samples `name`0, `name`1, … with these values."""
    install_all(folder / "site", monkeypatch)
    model = make_model()
    model.save_pretrained(folder / "run/model")
    for modality, some in values.items():
        (folder / "data" / modality).mkdir(parents=True)
        for i, value in enumerate(some):
            for extension, content in model.modalities[modality].write(value).items():
                (folder / f"data/{modality}/{name}{i}.{extension}").write_bytes(content)
    return folder / "run"


def picture(seed: int = 0, height: int = 8, width: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def heights(seed: int = 0, height: int = 8, width: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (height, width)).astype(np.float32)

"""Toy modalities used together with the plugin under test: four numbers per sample, with eight levels each.

`ToyManager` is a plugin host that knows them as if they were installed; `member` makes a toy whose numbers depend on
another modality's arrays, so that one can be learnt from the other.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fourm_plugins.errors import SampleError
from fourm_plugins.manager import Plugin, PluginManager
from fourm_plugins.masker import MASK, Masked, Masker
from fourm_plugins.modality import Metric, Modality
from fourm_plugins.spec import FeatureVector, ModalitySpec, TokenizerRecipe, TokenSpace, Vector
from fourm_plugins.testing.harness import Member
from fourm_plugins.tokenizer import Tokenizer
from fourm_plugins.view import View

#: The toy that a model is trained with, and another that is only installed.
TOY, OTHER = "kit_toy", "kit_other"
NUMBERS, LEVELS = 4, 8


class Toy(Modality[np.ndarray]):
    """float32 (4,) in [0, 1)."""

    def make_spec(self) -> ModalitySpec:
        return ModalitySpec(
            name=self.name,
            layout=Vector(length=NUMBERS),
            array=FeatureVector(size=NUMBERS),
            token_space=TokenSpace(name=self.name, size=LEVELS),
            tokenizer=TokenizerRecipe(kind=ToyTokenizer.kind),
            masker=ToyMasker.kind,
            source=self.name,
            extensions=("bin",),
            alignment=None,
        )

    def read(self, files: Mapping[str, bytes]) -> np.ndarray:
        if len(files["bin"]) != 4 * NUMBERS:
            raise SampleError(f"{len(files['bin'])} bytes; {4 * NUMBERS} are needed")
        return np.frombuffer(files["bin"], "<f4").astype(np.float32)

    def write(self, value: np.ndarray) -> dict[str, bytes]:
        return {"bin": value.astype("<f4").tobytes()}

    def augment(self, value: np.ndarray, view: View) -> np.ndarray:
        return value

    def normalise(self, value: np.ndarray) -> np.ndarray:
        return value

    def denormalise(self, array: np.ndarray | str) -> np.ndarray:
        assert isinstance(array, np.ndarray)
        return array

    def render(self, value: np.ndarray) -> str:
        return " ".join(f"{x:.2f}" for x in value)

    def metrics(self) -> tuple[Metric, ...]:
        return ()

    def example_samples(self, n: int, seed: int) -> list[dict[str, bytes]]:
        return [self.write(row) for row in np.random.default_rng(seed).random((n, NUMBERS), np.float32)]


class ToyTokenizer(Tokenizer):
    """One level per number; nothing to fit."""

    kind = "kit_levels"

    @property
    def fingerprint(self) -> str:
        return self.kind

    def fit(self, arrays: Callable[[], Iterable[Any]]) -> dict[str, float]:
        return {}

    def encode(self, arrays: Sequence[Any]) -> list[np.ndarray]:
        return [np.clip((array * LEVELS).astype(np.int64), 0, LEVELS - 1) for array in arrays]

    def decode(self, ids: Sequence[np.ndarray]) -> list[Any]:
        return [((np.asarray(row) + 0.5) / LEVELS).astype(np.float32) for row in ids]

    def save(self, folder: Path) -> None:
        """Nothing to save."""

    def load(self, folder: Path) -> None:
        """Nothing to load."""


class ToyMasker(Masker):
    """A random part is input, another one target."""

    kind = "kit_masker"

    def mask(
        self, ids: np.ndarray, *, input_budget: int, target_budget: int, keep: str, rng: np.random.Generator
    ) -> Masked:
        order = rng.permutation(len(ids))
        inputs, targets = order[:input_budget], order[input_budget : input_budget + target_budget]
        mask, zeros = np.full(len(targets), MASK), np.zeros(len(targets), np.int64)
        return Masked(ids[inputs], inputs, mask, targets, zeros, ids[targets])


class ToyManager(PluginManager):
    """The installed plugins and the toys, without the modalities `without`."""

    def __init__(self, *, without: Collection[str] = ()) -> None:
        super().__init__()
        self._toys: dict[tuple[Any, str], type] = {
            ("modality", TOY): Toy,
            ("modality", OTHER): Toy,
            ("tokenizer", ToyTokenizer.kind): ToyTokenizer,
            ("masker", ToyMasker.kind): ToyMasker,
        }
        origin: Any = {"value": f"{__name__}:Toy", "distribution": "fourm-engine", "version": "0", "location": ""}
        toys = [Plugin(kind=kind, name=name, **origin) for kind, name in self._toys]
        kept = [p for p in self.plugins if p.kind != "modality" or p.name not in without]
        self.plugins = (*kept, *toys)

    def modality_class(self, name: str) -> type[Modality[Any]]:
        return self._toys.get(("modality", name)) or super().modality_class(name)

    def tokenizer_class(self, kind: str) -> type[Tokenizer]:
        return self._toys.get(("tokenizer", kind)) or super().tokenizer_class(kind)

    def masker_class(self, kind: str) -> type[Masker]:
        return self._toys.get(("masker", kind)) or super().masker_class(kind)


def member(host: PluginManager, name: str, arrays: Sequence[Any]) -> Member:
    """The toy called `name`, with numbers computed from another modality's arrays."""
    toy = host.modality(name)
    statistics = np.stack([_statistics(array) for array in arrays])  # (samples, 4)
    rank = statistics.argsort(0, kind="stable").argsort(0, kind="stable")
    numbers = (rank / len(arrays)).astype(np.float32)  # every level equally often
    tokenizer = host.tokenizer_class(ToyTokenizer.kind)([toy.spec])
    masker = host.masker_class(ToyMasker.kind)(toy.spec)
    return Member(toy, host.find("modality", name), tokenizer, masker, list(numbers))


def _statistics(array: Any) -> np.ndarray:
    """float64 (4,): the mean of each quarter of an array, or numbers derived from a text."""
    if isinstance(array, str):
        return np.array([len(array), array.count(" "), zlib.crc32(array.encode()), sum(array.encode())], np.float64)
    parts = np.array_split(np.nan_to_num(np.asarray(array, np.float64)).ravel(), NUMBERS)
    return np.array([part.mean() if part.size else 0.0 for part in parts])

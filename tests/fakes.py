"""Small modalities, tokenizers and data sets for tests: a grid `a` of pictures and its pixels `a@pixels`, a grid `b` of
class maps, a sequence `words`. Everything is exact and takes microseconds.

    modalities = fake_modalities()
    tokenizers = fake_tokenizers(modalities)
    write_data(root, modalities, {name: [names of the samples that have it]}, tar=True)
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from fourm_plugins import (
    ClassMap,
    FeatureMap,
    Grid,
    Metric,
    Modality,
    ModalitySpec,
    SampleError,
    Settings,
    Text,
    TextTokenizer,
    Tokenizer,
    TokenizerRecipe,
    TokenSpace,
    View,
)
from fourm_plugins import Sequence as SequenceLayout

LEVELS, CLASSES = 16, 5
LEXICON = ("red", "green", "blue", "big", "small", "ball", "cube", "on", "near", "the")
SENTINELS = 20
END, FIRST_SENTINEL = 1, 2
FIRST_WORD = FIRST_SENTINEL + SENTINELS
WORDS = FIRST_WORD + len(LEXICON) + 1  # the last is the unknown word


def from_npy(content: bytes) -> np.ndarray:
    try:
        return np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise SampleError(f"truncated or no .npy file: {error}") from None


def to_npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def crop(image: np.ndarray, view: View, size: int) -> np.ndarray:
    """Nearest-neighbour crop of (H, W, ...) to (size, size, ...)."""
    left, top, right, bottom = view.pixels(*image.shape[:2])
    centre = (np.arange(size) + 0.5) / size
    rows = np.clip((top + centre * (bottom - top)).astype(int), 0, image.shape[0] - 1)
    columns = np.clip((left + centre * (right - left)).astype(int), 0, image.shape[1] - 1)
    return image[rows][:, columns[::-1] if view.flip else columns]


class GridSettings(Settings):
    size: int = Field(default=8, ge=2)
    tokens: int = Field(default=4, ge=1)  # a side


class Map(Modality[np.ndarray]):
    """Rows and columns first, in a .npy file."""

    Settings = GridSettings

    def write(self, value: np.ndarray) -> dict[str, bytes]:
        return {"npy": to_npy(value)}

    def aspect(self, value: np.ndarray) -> float:
        return value.shape[1] / value.shape[0]

    def augment(self, value: np.ndarray, view: View) -> np.ndarray:
        return crop(value, view, self.settings.size)


class Picture(Map):
    """float32 (H, W, 2) in [0, 1]. Its tokens are the patches' mean of channel 0, in 16 levels."""

    continuous = False

    def make_spec(self) -> ModalitySpec:
        s = self.settings
        return ModalitySpec(
            name=self.name,
            layout=Grid(height=s.tokens, width=s.tokens),
            array=FeatureMap(channels=2, height=s.size, width=s.size),
            token_space=None if self.continuous else TokenSpace(name=self.name, size=LEVELS),
            tokenizer=None if self.continuous else TokenizerRecipe(kind="fake_levels"),
            target=not self.continuous,
            source=self.name.partition("@")[0],
            extensions=("npy",),
            expected_decoding=True,
        )

    def read(self, files: Mapping[str, bytes]) -> np.ndarray:
        value = from_npy(files["npy"])
        if value.ndim != 3 or value.shape[2] != 2:
            raise SampleError(f"expected (H, W, 2), found {value.shape}")
        return value.astype(np.float32)

    def normalise(self, value: np.ndarray) -> np.ndarray:
        if np.isnan(value).any():
            raise SampleError(f"{int(np.isnan(value).sum())} values are NaN")
        return np.ascontiguousarray(value.transpose(2, 0, 1))

    def denormalise(self, array: np.ndarray) -> np.ndarray:
        return array.transpose(1, 2, 0)

    def render(self, value: np.ndarray) -> Any:
        from PIL import Image

        return Image.fromarray((np.clip(value[..., 0], 0, 1) * 255).astype(np.uint8)).convert("RGB")

    def metrics(self) -> tuple[Metric, ...]:
        return (Metric("mean absolute error", _mean_absolute_error, higher_is_better=False),)

    def constants(self, values: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        return {"one value": np.full_like(values[0], np.mean([v.mean() for v in values]))}

    def example_samples(self, n: int, seed: int) -> list[dict[str, bytes]]:
        rng = np.random.default_rng(seed)
        return [self.write(rng.random((12, 16, 2), np.float32)) for _ in range(n)]


class Pixels(Picture):
    """The same pictures as continuous input."""

    continuous = True


class Labels(Map):
    """int64 (H, W) of 5 classes, -1 for none. Its tokens are the class in the middle of a patch."""

    def make_spec(self) -> ModalitySpec:
        s = self.settings
        return ModalitySpec(
            name=self.name,
            layout=Grid(height=s.tokens, width=s.tokens),
            array=ClassMap(classes=CLASSES, height=s.size, width=s.size),
            token_space=TokenSpace(name=self.name, size=CLASSES),
            tokenizer=TokenizerRecipe(kind="fake_classes"),
            source=self.name,
            extensions=("npy",),
        )

    def read(self, files: Mapping[str, bytes]) -> np.ndarray:
        value = from_npy(files["npy"])
        if value.ndim != 2:
            raise SampleError(f"expected (H, W), found {value.shape}")
        return value.astype(np.int64)

    def normalise(self, value: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(value)  # classes out of range are for the engine to find

    def denormalise(self, array: np.ndarray) -> np.ndarray:
        return array

    def render(self, value: np.ndarray) -> Any:
        from PIL import Image

        return Image.fromarray(((value + 1) * 40).astype(np.uint8)).convert("RGB")

    def metrics(self) -> tuple[Metric, ...]:
        return (Metric("accuracy", _accuracy, higher_is_better=True),)

    def example_samples(self, n: int, seed: int) -> list[dict[str, bytes]]:
        rng = np.random.default_rng(seed)
        return [self.write(rng.integers(0, CLASSES, (12, 16))) for _ in range(n)]


class WordsSettings(Settings):
    max_tokens: int = Field(default=12, ge=1)


class Words(Modality[Any]):
    """One sentence a line; the view's variant chooses the line."""

    Settings = WordsSettings

    def make_spec(self) -> ModalitySpec:
        return ModalitySpec(
            name=self.name,
            layout=SequenceLayout(max_tokens=self.settings.max_tokens),
            array=Text(),
            token_space=TokenSpace(name="fake_words", size=WORDS, shared=True),
            tokenizer=TokenizerRecipe(kind="fake_words"),
            source=self.name,
            extensions=("txt",),
            alignment=None,
        )

    def read(self, files: Mapping[str, bytes]) -> tuple[str, ...]:
        lines = tuple(line for line in files["txt"].decode().split("\n") if line)
        if not lines:
            raise SampleError("no words")
        return lines

    def write(self, value: Any) -> dict[str, bytes]:
        return {"txt": "\n".join([value] if isinstance(value, str) else value).encode()}

    def augment(self, value: tuple[str, ...], view: View) -> str:
        return value[view.variant % len(value)]

    def normalise(self, value: str) -> str:
        return value

    def denormalise(self, array: str) -> str:
        return array

    def render(self, value: Any) -> str:
        return value if isinstance(value, str) else value[0]

    def metrics(self) -> tuple[Metric, ...]:
        return (Metric("exact", lambda p, t: float(np.mean([x == y for x, y in zip(p, t)])), higher_is_better=True),)

    def example_samples(self, n: int, seed: int) -> list[dict[str, bytes]]:
        rng = np.random.default_rng(seed)
        lines = [[" ".join(rng.choice(LEXICON, rng.integers(1, 8))) for _ in range(2)] for _ in range(n)]
        return [self.write(alternatives) for alternatives in lines]


class Unfitted:
    """A tokenizer without anything to learn. `salt` stands for a fitted state: it changes the fingerprint alone."""

    salt = ""

    @property
    def fingerprint(self) -> str:
        return f"{self.kind}{self.salt}"  # type: ignore[attr-defined]

    def fit(self, arrays: Any) -> dict[str, float]:
        return {}

    def save(self, folder: Path) -> None:
        pass

    def load(self, folder: Path) -> None:
        pass


def _patches(array: np.ndarray, spec: ModalitySpec) -> np.ndarray:
    """(H, W) -> (tokens, height of a patch, width of a patch)."""
    (ph, pw), grid = spec.patch, spec.layout
    return array.reshape(grid.height, ph, grid.width, pw).transpose(0, 2, 1, 3).reshape(-1, ph, pw)


class LevelsTokenizer(Unfitted, Tokenizer):
    kind = "fake_levels"

    def encode(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        means = (_patches(array[0], self.spec).mean((1, 2)) for array in arrays)
        return [np.clip((mean * LEVELS).astype(np.int64), 0, LEVELS - 1) for mean in means]

    def decode(self, ids: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [self._picture((row + 0.5) / LEVELS) for row in ids]

    def decode_expected(self, probabilities: np.ndarray) -> list[np.ndarray]:
        return [self._picture(row @ ((np.arange(LEVELS) + 0.5) / LEVELS)) for row in probabilities]

    def _picture(self, means: np.ndarray) -> np.ndarray:
        grid = np.asarray(means, np.float32).reshape(self.spec.layout.height, self.spec.layout.width)
        return np.stack([np.kron(grid, np.ones(self.spec.patch, np.float32))] * 2)


class ClassesTokenizer(Unfitted, Tokenizer):
    kind = "fake_classes"

    def encode(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        ph, pw = self.spec.patch
        return [np.maximum(_patches(array, self.spec)[:, ph // 2, pw // 2], 0) for array in arrays]

    def decode(self, ids: Sequence[np.ndarray]) -> list[np.ndarray]:
        shape = self.spec.layout.height, self.spec.layout.width
        return [np.kron(np.asarray(row, np.int64).reshape(shape), np.ones(self.spec.patch, np.int64)) for row in ids]


class WordsTokenizer(Unfitted, TextTokenizer):
    kind = "fake_words"

    @property
    def end_id(self) -> int:
        return END

    @property
    def sentinel_ids(self) -> Sequence[int]:
        return range(FIRST_SENTINEL, FIRST_WORD)

    def encode(self, arrays: Sequence[str]) -> list[np.ndarray]:
        known = {word: FIRST_WORD + i for i, word in enumerate(LEXICON)}
        return [np.array([known.get(word, WORDS - 1) for word in text.split()], np.int64) for text in arrays]

    def decode(self, ids: Sequence[np.ndarray]) -> list[str]:
        words = {FIRST_WORD + i: word for i, word in enumerate((*LEXICON, "?"))}
        return [" ".join(words[i] for i in row.tolist() if i in words) for row in ids]


TOKENIZERS: dict[str, type[Tokenizer]] = {t.kind: t for t in (LevelsTokenizer, ClassesTokenizer, WordsTokenizer)}


def fake_modalities(names: Iterable[str] = ("a", "a@pixels", "b", "words"), **settings: Any) -> dict[str, Modality]:
    """Modality by name, sorted. `settings` (size, tokens) go to the grids."""
    classes: dict[str, type[Modality]] = {"a": Picture, "a@pixels": Pixels, "b": Labels, "words": Words}
    return {name: classes[name](name, **({} if name == "words" else settings)) for name in sorted(names)}


def fake_tokenizers(modalities: Mapping[str, Modality]) -> dict[str, Tokenizer]:
    """Modality -> tokenizer, of those that have tokens."""
    return {
        name: TOKENIZERS[modality.spec.tokenizer.kind]([modality.spec])
        for name, modality in modalities.items()
        if modality.spec.tokenizer is not None
    }


def sample_names(n: int, start: int = 0) -> list[str]:
    return [f"{i:04d}" for i in range(start, start + n)]


def write_data(
    root: Path,
    modalities: Mapping[str, Modality],
    names: Mapping[str, Sequence[str]] | Sequence[str],
    *,
    seed: int = 0,
    tar: bool = False,
    shard_size: int = 7,
) -> None:
    """Write `root/<source>/…` for the sample names, the same for all modalities or by source; content depends on the
    seed and the name alone."""
    for source, modality in {m.spec.source: m for m in modalities.values()}.items():
        mine = names[source] if isinstance(names, Mapping) else names
        (root / source).mkdir(parents=True, exist_ok=True)
        for start in range(0, len(mine), shard_size):
            files = {
                f"{name}.{extension}": content
                for name in mine[start : start + shard_size]
                for extension, content in modality.example_samples(1, seed + sum(map(ord, name + source)))[0].items()
            }
            if tar:
                write_tar(root / source / f"shard-{start // shard_size:05d}.tar", files)
            else:
                for name, content in files.items():
                    (root / source / name).parent.mkdir(parents=True, exist_ok=True)
                    (root / source / name).write_bytes(content)


def write_tar(path: Path, files: Mapping[str, bytes], extra: Iterable[tarfile.TarInfo] = ()) -> None:
    """A shard of these members, then members without content (links)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for info in extra:
            tar.addfile(info)


def _mean_absolute_error(predictions: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> float:
    return float(np.mean([np.abs(p - t).mean() for p, t in zip(predictions, truths)]))


def _accuracy(predictions: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> float:
    return float(np.mean([(p == t).mean() for p, t in zip(predictions, truths)]))

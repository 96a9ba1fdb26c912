"""Folders of files as people have them: `write(root, folder, name, …)` of the plugins' example samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from tests.plugins.instances import modality, png


def names(number: int, *, below: str = "") -> list[str]:
    return [f"{below}IMG_{index:04}" for index in range(number)]


def write(root: Path, folder: str, kind: str, samples: Sequence[str], *, suffix: str = "") -> None:
    """Example samples of a plugin as `root/folder/sample.extension`."""
    if kind == "rgb":  # pictures with texture, as photographs have
        examples = [{"png": png(noisy(index))} for index in range(len(samples))]
    else:
        examples = modality(kind).example_samples(len(samples), seed=0)
    store(root / folder, examples, [f"{sample}{suffix}" for sample in samples])


def write_examples(folder: Path, kind: str, number: int, *, seed: int = 0, prefix: str = "") -> None:
    """Example samples of a plugin as `folder/0.extension` and so on."""
    store(folder, modality(kind).example_samples(number, seed=seed), [f"{prefix}{index}" for index in range(number)])


def store(folder: Path, examples: Iterable[Mapping[str, bytes]], samples: Iterable[str]) -> None:
    """Files of samples, {extension: content} each, under their names."""
    for sample, files in zip(samples, examples, strict=True):
        for extension, content in files.items():
            path = folder / f"{sample}.{extension}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def noisy(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (48, 64, 3), np.uint8)

"""KMeansTokenizer: each patch becomes the nearest of k patches.

In: feature maps on a grid (pictures, depth, temperatures, ...). Fitted in seconds without a network or a GPU; what it
loses, beside a VQ-VAE of the same codebook, is all that k patches cannot show. NumPy only.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from fourm_plugins import FeatureMap, Grid, ModalitySpec, Settings, Tokenizer

CENTRES = "centres.safetensors"
CHUNK = 4096  # patches whose distances to all centres are in memory at once


class KMeansSettings(Settings):
    #: Rounds of Lloyd's algorithm.
    rounds: int = Field(default=20, ge=1, le=1000)
    #: Patches that are learnt from, drawn from all.
    patches: int = Field(default=50_000, ge=2)
    seed: int = Field(default=0, ge=0)


class KMeansTokenizer(Tokenizer):
    """Raises ValueError for what is no feature map on a grid, and for a shared token space."""

    kind = "kmeans"
    Settings = KMeansSettings

    def __init__(self, specs: Sequence[ModalitySpec], **settings: Any) -> None:
        super().__init__(specs, **settings)
        spec = self.spec
        if len(self.specs) > 1 or not (isinstance(spec.layout, Grid) and isinstance(spec.array, FeatureMap)):
            raise ValueError(f"the tokenizer 'kmeans' is for one feature map on a grid, which {spec.name} is not")
        height, width = spec.patch
        self._centres = np.zeros((self.size, spec.array.channels * height * width), np.float32)

    @property
    def fingerprint(self) -> str:
        facts = [self.kind, self.settings.model_dump(mode="json"), self.spec.array.model_dump(mode="json"), self.size]
        facts.append(self.spec.layout.model_dump(mode="json"))
        text = json.dumps(facts, sort_keys=True).encode()
        return hashlib.sha256(text + self._centres.tobytes()).hexdigest()

    def fit(self, arrays: Callable[[], Iterable[Any]]) -> dict[str, float]:
        """Start from distinct patches drawn at random, then Lloyd's algorithm. A centre without patches starts again at
        the patch that is worst served."""
        rng = np.random.default_rng(self.settings.seed)
        patches = self._draw(arrays, rng)
        distinct = rng.permutation(np.unique(patches, axis=0))
        if not len(distinct):
            raise ValueError(f"{self.spec.name}: there is nothing to fit the tokenizer on")
        self._centres = distinct[np.arange(self.size) % len(distinct)]
        error = 0.0
        for _ in range(self.settings.rounds if len(distinct) > self.size else 0):
            nearest, distances = self._nearest(patches)
            counts = np.bincount(nearest, minlength=self.size)
            used, empty = np.flatnonzero(counts), np.flatnonzero(counts == 0)
            grouped = patches[np.argsort(nearest, kind="stable")]
            sums = np.add.reduceat(grouped, (np.cumsum(counts) - counts)[used], dtype=np.float64)
            self._centres[used] = sums / counts[used, None]
            self._centres[empty] = patches[np.argsort(-distances, kind="stable")[: len(empty)]]
            error = float(distances.mean())
        return {"mean squared error": error / self._centres.shape[1]}

    def encode(self, arrays: Sequence[Any]) -> list[np.ndarray]:
        """One array at a time, so that an id does not depend on what is encoded with it. Raises ValueError naming the
        modality for an array that is not what the spec says."""
        return [self._nearest(self._patches(array))[0] for array in arrays]

    def decode(self, ids: Sequence[np.ndarray]) -> list[Any]:
        return [self._array(self._centres[np.asarray(row, np.int64)]) for row in ids]

    def decode_expected(self, probabilities: np.ndarray) -> list[Any]:
        """The mean of the patches, weighted by their probability."""
        return [self._array(row.astype(np.float32) @ self._centres) for row in probabilities]

    def code_vectors(self) -> np.ndarray:
        """The patches."""
        return self._centres

    def save(self, folder: Path) -> None:
        save_file({"centres": self._centres}, folder / CENTRES)

    def load(self, folder: Path) -> None:
        try:
            centres = load_file(folder / CENTRES)["centres"]
        except (OSError, SafetensorError, KeyError) as error:
            raise ValueError(f"{folder / CENTRES}: cannot be read: {error}") from None
        if centres.shape != self._centres.shape or centres.dtype != np.float32:
            raise ValueError(f"{folder / CENTRES}: centres of {centres.shape}, expected {self._centres.shape}")
        self._centres = centres

    def _draw(self, arrays: Callable[[], Iterable[Any]], rng: np.random.Generator) -> np.ndarray:
        """At most `patches` of all patches, each with the same probability (a reservoir)."""
        kept, keys = np.zeros((0, self._centres.shape[1]), np.float32), np.zeros(0)
        more: list[np.ndarray] = []
        for array in arrays():
            more.append(self._patches(array))
            if len(more) * len(more[0]) >= self.settings.patches:
                kept, keys = self._keep(kept, keys, more, rng)
                more = []
        return self._keep(kept, keys, more, rng)[0]

    def _keep(
        self, kept: np.ndarray, keys: np.ndarray, more: list[np.ndarray], rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """The patches with the smallest random keys, of those kept so far and `more`; and their keys."""
        kept = np.concatenate([kept, *more])
        keys = np.append(keys, rng.random(len(kept) - len(keys)))
        best = np.argsort(keys)[: self.settings.patches]
        return kept[best], keys[best]

    def _nearest(self, patches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """int64 (n,) ids and float32 (n,) squared distances of the nearest centres; of several, the first."""
        ids, distances = [np.zeros(0, np.int64)], [np.zeros(0, np.float32)]
        lengths = (self._centres**2).sum(1)
        for start in range(0, len(patches), CHUNK):
            part = patches[start : start + CHUNK]
            scores = lengths - 2 * part @ self._centres.T  # |p - c|² without |p|², the same for all centres
            ids.append(scores.argmin(1))
            distances.append(np.maximum(scores.min(1) + (part**2).sum(1), 0))
        return np.concatenate(ids), np.concatenate(distances)

    def _patches(self, array: Any) -> np.ndarray:
        """float32 (tokens, channels * height * width of a patch); what was not measured counts as 0."""
        spec, grid = self.spec, self.spec.layout
        wanted = spec.array.channels, spec.array.height, spec.array.width
        if not isinstance(array, np.ndarray) or array.shape != wanted:
            given = array.shape if isinstance(array, np.ndarray) else type(array).__name__
            raise ValueError(f"{spec.name}: expected an array of shape {wanted}, found {given}")
        if np.isinf(array).any() or (np.isnan(array).any() and not spec.array.gaps):
            raise ValueError(f"{spec.name}: the array holds NaN or infinite values")
        (height, width), channels = spec.patch, spec.array.channels
        x = np.nan_to_num(array).reshape(channels, grid.height, height, grid.width, width)
        return x.transpose(1, 3, 0, 2, 4).reshape(grid.num_tokens, -1).astype(np.float32)

    def _array(self, patches: np.ndarray) -> np.ndarray:
        """float32 (channels, H, W) of (tokens, numbers of a patch)."""
        grid, channels, (height, width) = self.spec.layout, self.spec.array.channels, self.spec.patch
        x = patches.reshape(grid.height, grid.width, channels, height, width).transpose(2, 0, 3, 1, 4)
        return np.ascontiguousarray(x.reshape(channels, grid.height * height, grid.width * width))

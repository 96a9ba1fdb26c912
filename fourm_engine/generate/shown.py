"""What the encoder is shown of one sample, and the packing of such samples into fixed shapes.

In: `Sample`s, ids local to their modality. Out: `Tokens` (B, N) in rows of the vocabulary, and continuous inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from fourm_engine.batch import Tokens
from fourm_engine.generate.keep import Kept
from fourm_engine.masking.pack import patchify
from fourm_engine.vocabulary import Vocabulary
from fourm_plugins.spec import ModalitySpec


@dataclass(frozen=True)
class Shown:
    """n tokens of one modality: local ids, or (continuous) the features behind each token."""

    pos: np.ndarray  # (n,) int64
    ids: np.ndarray  # (n,) int64; -1 where continuous
    features: np.ndarray | None = None  # (n, patch_dim) float32

    def __len__(self) -> int:
        return len(self.pos)

    @classmethod
    def tokens(cls, ids: np.ndarray | Sequence[int], pos: np.ndarray | None = None) -> Shown:
        ids = np.asarray(ids, np.int64)
        return cls(np.arange(len(ids)) if pos is None else np.asarray(pos, np.int64), ids)

    @classmethod
    def continuous(cls, spec: ModalitySpec, array: np.ndarray) -> Shown:
        features = patchify(np.asarray(array), spec)
        return cls(np.arange(len(features)), np.full(len(features), -1, np.int64), features)

    def at(self, keep: np.ndarray) -> Shown:
        """The tokens where `keep`, bool (n,), is True."""
        return Shown(self.pos[keep], self.ids[keep], None if self.features is None else self.features[keep])


@dataclass
class Sample:
    """One sample on its way: what is given, and in turn what has been generated."""

    shown: dict[str, Shown] = field(default_factory=dict)
    #: Targets of which a part is given and stays as it is: tokens of a grid, or the beginning of a sequence.
    known: dict[str, Shown] = field(default_factory=dict)
    #: Values of those that are pictures and were given as such.
    kept: dict[str, Kept] = field(default_factory=dict)
    #: Guidance weights that the sample's own conditions carry.
    weights: dict[str, float] = field(default_factory=dict)


def pack(
    rows: Sequence[Mapping[str, Shown]], vocabulary: Vocabulary, capacity: int, device: torch.device | str
) -> tuple[Tokens, dict[str, Tensor]]:
    """Encoder tokens (B, max(1, capacity)) and {modality: float32 (B, N, patch_dim)}."""
    shape = len(rows), max(1, capacity)
    ids, pos, mod = np.full(shape, -1, np.int64), np.zeros(shape, np.int64), np.full(shape, -1, np.int64)
    continuous: dict[str, np.ndarray] = {}
    for b, row in enumerate(rows):
        start = 0
        for name, shown in row.items():
            entry, part = vocabulary[name], slice(start, start + len(shown))
            assert part.stop <= capacity, f"{part.stop} tokens in a capacity of {capacity}"
            ids[b, part] = np.where(shown.ids >= 0, shown.ids + entry.start, -1)
            pos[b, part], mod[b, part] = shown.pos, entry.index
            if shown.features is not None:
                continuous.setdefault(name, np.zeros((*shape, entry.patch_dim), np.float32))[b, part] = shown.features
            start = part.stop
    tokens = Tokens(*(torch.from_numpy(x) for x in (ids, pos, mod, np.zeros(shape, np.int64))))
    return tokens.to(device), {name: torch.from_numpy(x).to(device) for name, x in continuous.items()}


@dataclass(frozen=True)
class SequenceIds:
    """Special ids of a sequence's token space: what closes it, what generation starts from, and what ends it."""

    end: int
    start: int
    stop: frozenset[int]

"""Packs recorded tokens as a batch, one by one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch

from fourm_engine.batch import Batch, Patches, Tokens
from fourm_engine.vocabulary import Entry, Vocabulary


class Packing:
    def __init__(self, vocabulary: Vocabulary, samples: int) -> None:
        self.vocabulary = vocabulary
        self.encoder: list[list[tuple]] = [[] for _ in range(samples)]
        self.decoder: list[list[tuple]] = [[] for _ in range(samples)]
        self.targets: list[tuple[int, int, int, int]] = []
        self.patches: dict[str, list[tuple]] = defaultdict(list)

    def show(self, b: int, entry: Entry, place: int, what: int | np.ndarray) -> None:
        """An id, or the numbers of a patch."""
        if entry.patch_dim:
            self.patches[entry.name].append((b, len(self.encoder[b]), np.asarray(what, np.float32)))
        token = -1 if entry.patch_dim else what + entry.start
        self.encoder[b].append((token, place, entry.index, 0))

    def predict(self, b: int, entry: Entry, place: int, token: int) -> None:
        self.targets.append((entry.index, b, len(self.decoder[b]), token))
        self.decoder[b].append((-1, place, entry.index, 0))

    def predict_in_order(self, b: int, entry: Entry, tokens: Sequence[int]) -> None:
        """Each from those before it."""
        for rank, (token, following) in enumerate(pairwise(tokens)):
            self.targets.append((entry.index, b, len(self.decoder[b]), following))
            self.decoder[b].append((token + entry.start, rank, entry.index, rank))

    def fill(
        self, b: int, entry: Entry, values: np.ndarray, shown: Sequence[int], targets: Sequence[int], *, text: bool
    ) -> None:
        """Some of the recorded values are shown, and some are targets, by their indices."""
        for rank, p in enumerate(shown):
            self.show(b, entry, rank if text else p, values[p])
        if text:
            self.predict_in_order(b, entry, [values[p] for p in targets])
        else:
            for p in targets:
                self.predict(b, entry, p, values[p])

    def batch(self) -> Batch:
        targets = sorted(self.targets, key=lambda target: target[:3])
        encoder, decoder = _padded(self.encoder), _padded(self.decoder)
        continuous = {}
        for name, patches in self.patches.items():
            row, slot, values = zip(*patches, strict=True)
            continuous[name] = Patches(torch.from_numpy(np.stack(values)), torch.tensor(row), torch.tensor(slot))
        index = torch.tensor([b * decoder.shape[1] + slot for _, b, slot, _ in targets])
        counts = {e.name: sum(mod == e.index for mod, *_ in targets) for e in self.vocabulary if e.size}
        return Batch(encoder, decoder, continuous, index, torch.tensor([int(token) for *_, token in targets]), counts)


def _padded(rows: list[list[tuple]]) -> Tokens:
    """To the longest, and three more slots that nothing may look at."""
    length = max(map(len, rows)) + 3
    return Tokens(*torch.tensor([row + [(-1, 0, -1, 0)] * (length - len(row)) for row in rows]).long().unbind(-1))

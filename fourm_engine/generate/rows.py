"""Batches encoder rows: equal rows run once, and rows of similar length run together.

In: the encoder inputs of each (branch, sample). Out: groups of rows, packed with little padding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import torch

from fourm_engine.batch import Patches, Tokens
from fourm_engine.masking.pack import Shown, pack_inputs
from fourm_engine.vocabulary import Vocabulary

Row = Mapping[str, Shown]
#: Fraction of the slots of all groups that may be padding.
PADDING = 0.1


def length(row: Row) -> int:
    """Number of slots of a row: at least one, which may be empty."""
    return max(1, sum(map(len, row.values())))


def distinct(rows: Sequence[Row]) -> tuple[list[int], list[int]]:
    """For each row the index of its distinct row, and for each distinct row the index of its first occurrence."""
    numbers: dict[tuple[object, ...], int] = {}
    which, first = [], list[int]()
    for i, row in enumerate(rows):
        key = tuple(
            (name, x.pos.tobytes(), x.ids.tobytes(), b"" if x.features is None else x.features.tobytes())
            for name, x in row.items()
        )
        if key not in numbers:
            numbers[key] = len(first)
            first.append(i)
        which.append(numbers[key])
    return which, first


def group_by_length(lengths: Sequence[int]) -> list[list[int]]:
    """Indices of the rows of each group, with the fewest groups that leave at most a fraction `PADDING` of all slots
    empty."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    most = sum(lengths) / (1 - PADDING)
    # cost[i]: the fewest slots for the first i rows in that many groups; cuts[g][i]: where the last group starts.
    cost, cuts = [lengths[order[0]] * i for i in range(len(order) + 1)] if order else [0], [[0] * (len(order) + 1)]
    while cost[-1] > most:
        options = [
            min(((cost[j] + lengths[order[j]] * (i - j), j) for j in range(i)), default=(0, 0))
            for i in range(len(order) + 1)
        ]
        cost, cut = [best for best, _ in options], [j for _, j in options]
        cuts.append(cut)
    groups, end = [], len(order)
    for cut in reversed(cuts):
        if end:
            groups.append(order[cut[end] : end])
            end = cut[end]
    return groups[::-1]


class Packing:
    """The tokens of rows, packed once per group that runs together."""

    def __init__(self, rows: Sequence[Row], vocabulary: Vocabulary, device: torch.device) -> None:
        self.rows, self.vocabulary, self.device = rows, vocabulary, device
        self.packed = lru_cache(maxsize=64)(self._pack)

    def _pack(self, members: tuple[int, ...]) -> tuple[Tokens, dict[str, Patches]]:
        rows = [self.rows[i] for i in members]
        return pack_inputs(rows, self.vocabulary, max(map(length, rows)), self.device)

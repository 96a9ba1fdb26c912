"""Draw samples one by one in the order of a run, recording the view, content and budgets of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any

import numpy as np

from fourm_engine.batch import PackedSample
from fourm_engine.data.bad_files import BadFile
from fourm_engine.data.raw.names import shown
from fourm_engine.data.samples import MaskedSamples
from fourm_engine.data.store import Store
from fourm_engine.masking.budgets import Budgets, Drawn


class Drawing:
    """Draws samples in the order of the run, and records each draw."""

    def __init__(self, samples: MaskedSamples) -> None:
        self.samples, self.vocabulary = samples, samples.vocabulary
        self.store = samples.store = _Watched(samples.store)
        self.budgets = samples.budgets = _Noted.of(samples.budgets)

    def draw(self, row: int, epoch: int, view: int | None) -> tuple[PackedSample, int]:
        """The sample of a row, packed, and its position in the epoch. Raises ValueError if it is never used."""
        self.store.view = view
        position = self.samples.order.position(row, epoch)
        packed = self.samples[position]
        if self.store.row != row:  # another sample replaced it
            has = ", ".join(sorted(self.store.has(row))) or "nothing that can be read"
            raise ValueError(
                f"{shown(str(self.store.names[row]))} is never trained on: it has {has}, and no component of "
                f"masking.mixture has both inputs and targets among these"
            )
        return packed, position

    @property
    def contents(self) -> dict[str, np.ndarray]:
        """Modality -> content loaded for the last sample."""
        return self.store.loaded


class _Watched(Store):
    """A store that records the content loaded for the last sample; if `view` is set, it provides only that view."""

    def __init__(self, store: Store) -> None:
        self.inner, self.row = store, -1
        self.view: int | None = None
        self.drawn_view, self.loaded, self.bad = 0, dict[str, np.ndarray](), list[BadFile]()

    @property
    def names(self) -> Any:  # type: ignore[override]
        return self.inner.names

    @property
    def views(self) -> int:  # type: ignore[override]
        return self.inner.views

    @property
    def shard_sizes(self) -> np.ndarray:
        return self.inner.shard_sizes

    def has(self, row: int) -> frozenset[str]:
        return self.inner.has(row)

    def kinds(self) -> Counter[frozenset[str]]:
        return self.inner.kinds()

    def load(self, row: int, modality: str, view: int = 0) -> np.ndarray:
        if row != self.row:
            self.row, self.loaded, self.bad = row, {}, []
        self.drawn_view = view if self.view is None else self.view
        self.loaded[modality] = self.inner.load(row, modality, self.drawn_view)
        return self.loaded[modality]

    def skip(self, row: int, bad: BadFile) -> None:
        self.bad.append(bad)
        self.inner.skip(row, bad)


class _Noted(Budgets):
    """Budgets that record what they drew last."""

    last: Drawn | None = None

    @classmethod
    def of(cls, budgets: Budgets) -> _Noted:
        noted = cls.__new__(cls)
        noted.__dict__.update(budgets.__dict__)
        return noted

    def draw(self, rng: np.random.Generator, available: Collection[str]) -> Drawn | None:
        self.last = super().draw(rng, available)
        return self.last

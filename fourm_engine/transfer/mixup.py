"""Mixup and cutmix of two samples, on their patches or the cells of their grids.

In: two samples and a generator. Out: the mixed sample, and the share of the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from fourm_engine.masking.pack import Shown
from fourm_engine.transfer.config import ClassificationConfig, TaskConfig
from fourm_engine.vocabulary import Vocabulary
from fourm_plugins.spec import Grid

Inputs = Mapping[str, Shown]


@dataclass(frozen=True)
class Drawn:
    """`share`: weight of the first sample. `cells`: bool (h, w), the cells taken from the second; None for mixup."""

    share: float
    cells: np.ndarray | None = None


class Mixing:
    """Mixes pairs of samples. Raises ValueError for inputs that cannot be mixed this way."""

    def __init__(self, config: ClassificationConfig, inputs: Vocabulary) -> None:
        self.mixup, self.cutmix = config.mixup, config.cutmix
        if self.mixup and (ids := [entry.name for entry in inputs if not entry.patch_dim]):
            raise ValueError(
                f"task.mixup mixes numbers, and {ids[0]!r} is token ids; show the model numbers (pixels), or use cutmix"
            )
        grids = {entry.layout for entry in inputs}
        self.grid = grids.pop() if len(grids) == 1 else None
        if self.cutmix and not isinstance(self.grid, Grid):
            raise ValueError(
                "task.cutmix needs inputs of one grid, whose cells it exchanges; select such inputs, or use mixup"
            )

    def draw(self, rng: np.random.Generator) -> Drawn:
        if self.cutmix and not (self.mixup and rng.random() < 0.5):
            assert isinstance(self.grid, Grid)
            h, w = self.grid.height, self.grid.width
            side = np.sqrt(1 - rng.beta(self.cutmix, self.cutmix))
            height, width = round(h * side), round(w * side)
            top, left = rng.integers(h - height + 1), rng.integers(w - width + 1)
            cells = np.zeros((h, w), np.bool_)
            cells[top : top + height, left : left + width] = True
            return Drawn(1 - float(cells.mean()), cells)
        return Drawn(float(rng.beta(self.mixup, self.mixup)))

    def mixed(self, a: Inputs, b: Inputs, drawn: Drawn) -> dict[str, Shown]:
        return {name: self._mixed(a[name], b[name], drawn) for name in a}

    def _mixed(self, a: Shown, b: Shown, drawn: Drawn) -> Shown:
        if drawn.cells is None:
            assert a.features is not None
            assert b.features is not None
            features = drawn.share * a.features + (1 - drawn.share) * b.features
            return replace(a, features=features.astype(np.float32))
        other = drawn.cells.reshape(-1)
        if a.features is None or b.features is None:
            return Shown(a.pos, np.where(other, b.ids, a.ids))
        return replace(a, features=np.where(other[:, None], b.features, a.features))


def mixing_of(config: TaskConfig, inputs: Vocabulary) -> Mixing | None:
    """The mixing of a task, or None."""
    if isinstance(config, ClassificationConfig) and (config.mixup or config.cutmix):
        return Mixing(config, inputs)
    return None

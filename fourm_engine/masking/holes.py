"""HoleMasker: grids with a block of targets, as in an edit; the inputs surround it, or are interspersed.

Tokens are ranked by their distance from a random centre plus noise of a random amplitude: without noise the targets are
a block surrounded by all inputs, with strong noise they are scattered as by `GridMasker`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator

from fourm_plugins.masker import MASK, Masked, Masker, SpecialTokens
from fourm_plugins.spec import Grid, ModalitySpec

#: Maximum aspect ratio of a block, in either direction.
SLENDER = 2.0


class HoleMasker(Masker):
    """The tokens nearest to a random centre are targets, the farthest are inputs. Raises ValueError for a modality that
    is not a grid."""

    def __init__(self, spec: ModalitySpec, special_tokens: SpecialTokens | None = None) -> None:
        super().__init__(spec, special_tokens)
        if not isinstance(spec.layout, Grid):
            raise ValueError(f"{spec.name}: the masker 'holes' is for grids; this is a {spec.layout.kind}")
        rows, columns = np.indices((spec.layout.height, spec.layout.width)).reshape(2, -1)
        self._rows, self._columns = rows, columns
        self._size = max(spec.layout.height, spec.layout.width)

    def mask(self, ids: np.ndarray, *, input_budget: int, target_budget: int, keep: str, rng: Generator) -> Masked:
        near_first = np.argsort(self._distances(rng))
        n_inputs = min(max(input_budget, 0), len(ids))
        inputs = near_first[len(ids) - n_inputs :]
        targets = near_first[: min(max(target_budget, 0), len(ids) - n_inputs)]
        zeros = np.zeros_like(targets)
        return Masked(ids[inputs], inputs, zeros + MASK, targets, zeros, ids[targets])

    def _distances(self, rng: Generator) -> np.ndarray:
        """(tokens,), in tokens: the larger of the distances along rows and columns, with noise."""
        stretch = math.sqrt(SLENDER ** rng.uniform(-1, 1))
        row, column = rng.uniform(0, self._rows[-1]), rng.uniform(0, self._columns[-1])
        exact = np.maximum(np.abs(self._rows - row) * stretch, np.abs(self._columns - column) / stretch)
        share = rng.uniform()  # of the noise: 0 is a block, 1 scattered
        return (1 - share) * exact + share * rng.uniform(0, self._size, len(exact))

"""BlockMasker: the targets of a grid are one connected block, the inputs are drawn from around it.

Scattered targets can be guessed from their neighbours; a block has to be understood (Assran et al. 2023,
"Self-supervised learning from images with a joint-embedding predictive architecture", arXiv 2301.08243, section 3).
"""

import math

import numpy as np

from fourm_plugins import MASK, Grid, Masked, Masker, ModalitySpec, SpecialTokens

SLENDER = 2.0  # a block is at most so many times as high as wide, or as wide as high


class BlockMasker(Masker):
    """Raises ValueError for a modality that is no grid."""

    def __init__(self, spec: ModalitySpec, special_tokens: SpecialTokens | None = None) -> None:
        super().__init__(spec, special_tokens)
        if not isinstance(spec.layout, Grid):
            raise ValueError(f"{spec.name}: the masker 'blocks' is for grids; this is a {spec.layout.kind}")
        self._rows, self._columns = spec.layout.height, spec.layout.width

    def mask(
        self, ids: np.ndarray, *, input_budget: int, target_budget: int, keep: str, rng: np.random.Generator
    ) -> Masked:
        inside = self._block(target_budget, rng)
        targets = np.flatnonzero(inside)
        inputs = rng.permutation(np.flatnonzero(~inside))[: max(input_budget, 0)]
        return Masked(
            input_ids=ids[inputs],
            input_pos=inputs,
            target_ids=np.full(len(targets), MASK, np.int64),
            target_pos=targets,
            target_order=np.zeros(len(targets), np.int64),
            labels=ids[targets],
        )

    def _block(self, budget: int, rng: np.random.Generator) -> np.ndarray:
        """bool (tokens,): the largest rectangle of a random shape that has at most `budget` tokens, somewhere."""
        inside = np.zeros((self._rows, self._columns), bool)
        if budget > 0:
            ratio = SLENDER ** rng.uniform(-1, 1)
            rows = min(max(1, round(math.sqrt(budget * ratio))), self._rows, budget)
            columns = min(budget // rows, self._columns)
            rows = min(budget // columns, self._rows)  # where the grid's edge made it narrower
            top, left = rng.integers(self._rows - rows + 1), rng.integers(self._columns - columns + 1)
            inside[top : top + rows, left : left + columns] = True
        return inside.ravel()

"""GridMasker: unordered tokens (grids, vectors, continuous inputs). A uniformly random permutation; the first tokens
are inputs, the next are targets, predicted in parallel (4M, arXiv 2312.06647, section 2.3)."""

from __future__ import annotations

import numpy as np

from fourm_plugins.masker import MASK, Masked, Masker


class GridMasker(Masker):
    """Targets all see one another (order 0) and enter the decoder as mask tokens."""

    def mask(
        self, ids: np.ndarray, *, input_budget: int, target_budget: int, keep: str, rng: np.random.Generator
    ) -> Masked:
        permutation = rng.permutation(len(ids))
        shown = permutation[:input_budget]
        asked = permutation[input_budget : input_budget + target_budget]
        return Masked(
            input_ids=ids[shown],
            input_pos=shown,
            target_ids=np.full(len(asked), MASK, np.int64),
            target_pos=asked,
            target_order=np.zeros(len(asked), np.int64),
            labels=ids[asked],
        )

"""GridMasker: unordered tokens (grids, vectors, continuous inputs). In a uniformly random permutation, the first tokens
are inputs, the next are targets, predicted in parallel (4M, arXiv 2312.06647, section 2.3)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.random import Generator

from fourm_engine.masking.noise import keys_of, noise
from fourm_engine.masking.rows import MaskedRows, ragged
from fourm_plugins.masker import MASK, Masked, Masker


class GridMasker(Masker):
    """All targets see each other (order 0) and enter the decoder as mask tokens."""

    def mask(self, ids: np.ndarray, *, input_budget: int, target_budget: int, keep: str, rng: Generator) -> Masked:
        return mask_grids([ids], np.array([input_budget]), np.array([target_budget]), keys_of(rng)).only()


def mask_grids(ids: Sequence[np.ndarray], inputs: np.ndarray, targets: np.ndarray, keys: np.ndarray) -> MaskedRows:
    """Mask R rows with equal numbers of tokens, with budgets (R,), from the streams `keys`, uint64 (R,)."""
    n = len(ids[0])
    # The low bits of each random number hold its index; sorting gives a permutation.
    bits = np.uint64((1 << n.bit_length()) - 1)
    order_Rn = np.sort(noise(keys[:, None], np.arange(n)) & ~bits | np.arange(n, dtype=np.uint64), axis=1) & bits
    n_inputs = np.minimum(np.maximum(inputs, 0), n)
    n_targets = np.minimum(np.maximum(targets, 0), n - n_inputs)
    row, rank = ragged(n_inputs + n_targets)
    pos = order_Rn[row, rank].astype(np.int64)
    values, is_input = np.concatenate(ids)[row * n + pos], rank < n_inputs[row]
    target_values, target_pos = values[~is_input], pos[~is_input]
    zeros = np.zeros_like(target_pos)
    return MaskedRows(
        n_inputs,
        np.array((values[is_input], pos[is_input])),
        n_targets,
        np.array((zeros + MASK, target_pos, zeros, target_values)),
    )

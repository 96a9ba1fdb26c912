"""Many masked modalities at once, concatenated row by row; the SDK's `Masked` holds one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fourm_plugins.masker import Masked


@dataclass(frozen=True)
class MaskedRows:
    """R masked modalities of any samples; int64. Row r has `n_inputs[r]` inputs and `n_targets[r]` targets."""

    n_inputs: np.ndarray  # (R,)
    inputs: np.ndarray  # (2, sum of n_inputs): ids, pos
    n_targets: np.ndarray  # (R,)
    targets: np.ndarray  # (4, sum of n_targets): ids, pos, order, labels

    @classmethod
    def of(cls, masked: Sequence[Masked]) -> MaskedRows:
        return cls(
            np.array([len(m.input_ids) for m in masked], np.int64),
            np.concatenate([np.stack((m.input_ids, m.input_pos)) for m in masked], axis=1),
            np.array([len(m.labels) for m in masked], np.int64),
            np.concatenate([np.stack((m.target_ids, m.target_pos, m.target_order, m.labels)) for m in masked], axis=1),
        )

    def only(self) -> Masked:
        """The only row."""
        (ids, pos), (target_ids, target_pos, order, labels) = self.inputs, self.targets
        return Masked(ids, pos, target_ids, target_pos, order, labels)


def ragged(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The row of each item, and its rank in the row, for consecutive rows with `counts` (R,) items."""
    row = np.arange(len(counts)).repeat(counts)
    return row, np.arange(len(row)) - (counts.cumsum() - counts)[row]

"""What the model eats: integers of fixed shape, packed before embedding.

`Tokens` are the rows of encoder or decoder; `Batch` is both, the targets, and the continuous inputs. `collate` makes a
`Batch` from packed samples (`fourm_engine.masking.pack.PackedSample`).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass
class Tokens:
    """Four int64 tensors of one shape (B, N)."""

    ids: Tensor  # row of the vocabulary; -1 for a mask token (decoder) or a continuous input (encoder)
    pos: Tensor  # index in the grid, rank in the sequence, index in the vector
    mod: Tensor  # index of the modality in the vocabulary; -1 for padding
    order: Tensor  # decoder: query q attends to key k iff mod_q == mod_k and order_k <= order_q; 0 in the encoder

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Tokens:
        return Tokens(*(getattr(self, f.name).to(device, non_blocking=non_blocking) for f in fields(self)))

    @property
    def shape(self) -> torch.Size:
        return self.ids.shape


@dataclass
class Batch:
    """One training batch. The T targets are sorted by modality, in the vocabulary's order."""

    encoder: Tokens  # (B, N)
    decoder: Tokens  # (B, M)
    continuous: dict[str, Tensor]  # modality -> float32 (B, N, patch_dim); zeros where `mod` is another modality
    target_index: Tensor  # (T,) int64 into the flattened (B * M)
    target_ids: Tensor  # (T,) int64, local to the modality
    target_counts: dict[str, int]  # modality -> number of targets, on the host; sums to T

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        return Batch(
            self.encoder.to(device, non_blocking=non_blocking),
            self.decoder.to(device, non_blocking=non_blocking),
            {name: x.to(device, non_blocking=non_blocking) for name, x in self.continuous.items()},
            self.target_index.to(device, non_blocking=non_blocking),
            self.target_ids.to(device, non_blocking=non_blocking),
            dict(self.target_counts),
        )

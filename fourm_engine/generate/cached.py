"""Left-to-right decoding with one network. Each distinct row is encoded once; keys and values are cached.

In: the encoder inputs of each (branch, sample). Out: logits of the next token of each sample, branches combined.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from fourm_engine.generate.guidance import Branches, mix, mix_on_device, progress
from fourm_engine.generate.rows import Packing, distinct, group_by_length, length
from fourm_engine.masking.pack import Shown
from fourm_engine.nn.transformer import Transformer
from fourm_engine.vocabulary import Vocabulary


class CachedDecoder:
    """Args:
    rows: encoder inputs of the K · B rows, branch by branch, as from `Branches.rows`.
    limit: maximum length of a sequence."""

    def __init__(
        self,
        network: Transformer,
        vocabulary: Vocabulary,
        rows: Sequence[Mapping[str, Shown]],
        branches: Branches,
        target: str,
        limit: int,
    ) -> None:
        self.network, self.entry = network, vocabulary[target]
        self.batch, device = len(rows) // len(branches), next(network.parameters()).device
        self.coefficient_LKB = np.stack(
            [branches.coefficients(self.batch, progress(step, limit)) for step in range(limit)]
        )
        used = (self.coefficient_LKB != 0).any(0)  # (K, B)
        which, first = distinct(rows)
        packing = Packing([rows[i] for i in first], vocabulary, device)
        users = [np.flatnonzero((np.array(which) == i) & used.flatten()) for i in range(len(first))]
        contexts, order = [], []  # `order`: index among the K · B rows of each decoded row
        for count in sorted({len(u) for u in users if len(u)}):
            alike = [i for i, u in enumerate(users) if len(u) == count]
            for group in group_by_length([length(packing.rows[i]) for i in alike]):
                members = tuple(alike[i] for i in group)
                contexts.append((*network.encode(*packing.packed(members)), count))
                order += [row for i in members for row in users[i].tolist()]
        self.cache = network.start_cache(contexts, limit)
        self.row_index = np.zeros(used.size, np.int64)
        self.row_index[order] = np.arange(len(order))
        self.sample_R = torch.tensor([row % self.batch for row in order], device=device)
        self.mod_R = torch.full((len(order),), self.entry.index, device=device)
        self._table = torch.from_numpy(self.coefficient_LKB).float().to(device)
        self._row_KB = torch.from_numpy(self.row_index).view(used.shape).to(device)

    def logits(self, ids_B: Tensor, step: int | Tensor) -> Tensor:
        """float32 (B, V): logits of the next token, given the local ids `ids_B` of the previous one. `step`: number of
        preceding tokens, on the host, or (1,) on the device, where every step does the same work."""
        ids_R = (ids_B + self.entry.start)[self.sample_R]
        if isinstance(step, Tensor):
            y_RD = self.network.decode_step(ids_R, step.expand_as(ids_R), self.mod_R, self.cache, step)
            alone = len(self._row_KB) == 1
            y_BD = y_RD[self._row_KB[0]] if alone else mix_on_device(y_RD, self._row_KB, self._table[step][0])
        else:
            y_RD = self.network.decode_step(ids_R, torch.full_like(self.mod_R, step), self.mod_R, self.cache)
            y_BD = mix(y_RD, self.row_index, self.coefficient_LKB[step])
        return self.network.logits(y_BD, self.entry.name).float()

    def tensors(self) -> list[Tensor]:
        """The tensors that the logits depend on, besides the preceding tokens."""
        contexts = [x for group in self.cache.contexts for x in (group.mask, group.seen) if x is not None]
        cross = [x for block in self.cache.blocks for keys_values in block.cross for x in keys_values]
        return [*contexts, *cross, self.sample_R, self.mod_R, self._table, self._row_KB]

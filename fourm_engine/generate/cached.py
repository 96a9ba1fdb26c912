"""Left-to-right decoding of one network, with cached keys and values from a single encoding of each distinct row.

In: what each (branch, sample) shows the encoder. Out: logits of the next token of each sample, branches combined.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from fourm_engine.generate.guidance import Branches, mix, progress
from fourm_engine.generate.rows import Packing, distinct, length, together
from fourm_engine.masking.pack import Shown
from fourm_engine.nn.transformer import Transformer
from fourm_engine.vocabulary import Vocabulary


class Cached:
    """Args:
    rows: K · B, branch by branch, as from `Branches.rows`.
    limit: most tokens of a sequence."""

    def __init__(
        self,
        network: Transformer,
        vocabulary: Vocabulary,
        rows: Sequence[Mapping[str, Shown]],
        plan: Branches,
        target: str,
        limit: int,
    ) -> None:
        self.network, self.plan, self.entry, self.limit = network, plan, vocabulary[target], limit
        self.batch, device = len(rows) // len(plan), next(network.parameters()).device
        used = sum(plan.shares(self.batch, progress(step, limit)) != 0 for step in range(limit)) > 0  # (K, B)
        which, first = distinct(rows)
        packing = Packing([rows[i] for i in first], vocabulary, device)
        users = [np.flatnonzero((np.array(which) == i) & used.flatten()) for i in range(len(first))]
        contexts, order = [], []  # `order`: index among the K · B rows of each decoded row
        for count in sorted({len(u) for u in users if len(u)}):
            alike = [i for i, u in enumerate(users) if len(u) == count]
            for group in together([length(packing.rows[i]) for i in alike]):
                members = tuple(alike[i] for i in group)
                contexts.append((*network.encode(*packing.packed(members)), count))
                order += [row for i in members for row in users[i].tolist()]
        self.cache = network.start_cache(contexts, limit)
        self.at = np.zeros(used.size, np.int64)
        self.at[order] = np.arange(len(order))
        self.sample_R = torch.tensor([row % self.batch for row in order], device=device)
        self.mod_R = torch.full((len(order),), self.entry.index, device=device)

    def logits(self, ids_B: Tensor, step: int) -> Tensor:
        """float32 (B, V), after the local ids `ids_B` of the token before."""
        ids_R, position_R = (ids_B + self.entry.start)[self.sample_R], torch.full_like(self.mod_R, step)
        y_RD = self.network.decode_step(ids_R, position_R, self.mod_R, self.cache)
        y_BD = mix(y_RD, self.at, self.plan.shares(self.batch, progress(step, self.limit)))
        return self.network.logits(y_BD, self.entry.name).float()

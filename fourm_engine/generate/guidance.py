"""Classifier-free guidance over any number of conditions (4M, section 3.2; arXiv 2207.12598).

In: a stage and the samples. Out: `Branches`: what each branch shows the encoder, and how their logits combine,
u + Σ wᵢ (cᵢ − u).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fourm_engine.generate.plan import Stage
from fourm_engine.generate.shown import Sample
from fourm_engine.masking.pack import Shown
from fourm_plugins.suggest import did_you_mean

if TYPE_CHECKING:
    from fourm_engine.generate.shown import SequenceIds


@dataclass(frozen=True)
class Branches:
    """K branches over B samples. The first is u (or, alone, the plain model); `weights` are those of the others."""

    hidden: tuple[frozenset[str], ...]  # K sets of conditions that a branch does not see
    weights: Tensor | None  # (K - 1, B) float32; None where K = 1
    placeholders: dict[str, Shown]  # what a hidden sequence is replaced by
    target: str

    def __len__(self) -> int:
        return len(self.hidden)

    def rows(self, samples: Sequence[Sample]) -> list[dict[str, Shown]]:
        """What the encoder sees of each (branch, sample), branch by branch: K · B rows. The target's own tokens are the
        sampler's business; of a target that was generated before, nothing is left."""
        rows = []
        for hidden in self.hidden:
            for sample in samples:
                row = {}
                for name in sorted(sample.shown.keys() - {self.target}):
                    if name not in hidden:
                        row[name] = sample.shown[name]
                    elif name in self.placeholders:
                        row[name] = self.placeholders[name]
                if self.target in self.placeholders:
                    row[self.target] = self.placeholders[self.target]
                rows.append(row)
        return rows

    def combine(self, logits: Tensor) -> Tensor:
        """(K · B, …, V) -> (B, …, V)."""
        if self.weights is None:
            return logits
        u, *conditioned = logits.chunk(len(self))
        result = u
        for weight_B, c in zip(self.weights.to(logits.device), conditioned, strict=True):
            result = result + weight_B.view(-1, *[1] * (u.ndim - 1)) * (c - u)
        return result


def branches(stage: Stage, samples: Sequence[Sample], sequences: Mapping[str, SequenceIds]) -> Branches:
    """The branches that a stage needs, at least one.

    Raises ValueError: a weight for what is not a condition, or weights given twice."""
    conditions = sorted({name for sample in samples for name in sample.shown} - {stage.target})
    placeholders = {}
    if stage.prompt_sentinel:
        placeholders = {name: Shown.tokens([ids.start]) for name, ids in sequences.items()}
    weighted = {name for sample in samples for name in sample.weights} - {stage.target}
    if weighted and stage.guidance is not None:
        raise ValueError(f"guidance is given twice, by {', '.join(sorted(weighted))} and by the plan; drop one")
    if weighted or isinstance(stage.guidance, dict):
        common = stage.guidance if isinstance(stage.guidance, dict) else {}
        names = sorted(weighted | common.keys())
        for name in names:
            if name not in conditions:
                raise unknown_condition(name, stage.target, conditions)
        hidden = [frozenset(names), *(frozenset(names) - {name} for name in names)]
        # A sample without a weight for a condition has weight 1.
        weights = [[common.get(name, sample.weights.get(name, 1.0)) for sample in samples] for name in names]
        # The published models replace what is hidden in plain guidance alone, not where conditions have weights.
        own_sentinel = {name: shown for name, shown in placeholders.items() if name == stage.target}
        return Branches(tuple(hidden), torch.tensor(weights), own_sentinel, stage.target)
    weight = 1.0 if stage.guidance is None else float(stage.guidance)
    if weight == 1.0 or not conditions:
        return Branches((frozenset(),), None, placeholders, stage.target)
    hidden = [frozenset(conditions), frozenset()]
    return Branches(tuple(hidden), torch.full((1, len(samples)), weight), placeholders, stage.target)


def unknown_condition(name: str, target: str, conditions: Iterable[str]) -> ValueError:
    """The error for a guidance weight of what does not condition `target`."""
    hint = did_you_mean(name, conditions, otherwise="conditions are:")
    return ValueError(f"guidance weight for {name!r}, which is no condition of {target}; {hint}")

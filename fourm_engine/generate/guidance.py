"""Classifier-free guidance over any number of conditions (4M, section 3.2; arXiv 2207.12598), and by a weaker model.

In: a stage and the samples. Out: `Branches`: the encoder inputs of each branch, and how their predictions combine:
u + Σ wᵢ (cᵢ − u), where each weight is a number or a schedule over the steps. Branches with coefficient 0 do not run.
`Guide`: another model, whose logits are extrapolated away from.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from fourm_engine.device import on_host, to_device
from fourm_engine.generate.options import MAX_WEIGHT, is_weight
from fourm_engine.generate.plan import Stage
from fourm_engine.generate.sample import Sample
from fourm_engine.identity import compare
from fourm_engine.masking.pack import Shown
from fourm_engine.nn.transformer import Transformer
from fourm_engine.vocabulary import Vocabulary
from fourm_plugins.counting import some
from fourm_plugins.modality import Modality
from fourm_plugins.suggest import did_you_mean
from fourm_plugins.tokenizer import Tokenizer

if TYPE_CHECKING:
    from fourm_engine.generate.sample import SequenceIds

Weight = float | list[float]


@dataclass(frozen=True)
class Branches:
    """K branches over B samples. The first is u (or the plain model, if it is the only one); `weights` are those of the
    others."""

    hidden: tuple[frozenset[str], ...]  # K sets: the conditions and regions hidden from each branch
    weights: list[list[Weight]]  # (K - 1) lists of B
    placeholders: dict[str, Shown]  # what replaces a hidden sequence
    target: str

    def __len__(self) -> int:
        return len(self.hidden)

    def rows(self, samples: Sequence[Sample]) -> list[dict[str, Shown]]:
        """Encoder inputs for each (branch, sample), branch by branch: K · B rows. Tokens of the target are excluded:
        the sampler adds them, and a stage that regenerates a modality starts from scratch."""
        rows = []
        for hidden in self.hidden:
            for sample in samples:
                row, seen = {}, sample.without(hidden)
                for name in sorted(sample.shown.keys() - {self.target}):
                    if name in seen:
                        row[name] = seen[name]
                    elif name in self.placeholders:
                        row[name] = self.placeholders[name]
                if self.target in self.placeholders:
                    row[self.target] = self.placeholders[self.target]
                rows.append(row)
        return rows

    def coefficients(self, samples: int, progress: float = 0.0) -> np.ndarray:
        """float64 (K, B): the coefficient of each branch; they sum to 1 over branches. `progress` runs from 0 at the
        first step to 1 at the last."""
        weights = np.array([[_weight(w, progress) for w in row] for row in self.weights]).reshape(-1, samples)
        return np.concatenate([1 - weights.sum(0, keepdims=True), weights])

    def combine(self, predicted: Tensor, progress: float = 0.0) -> Tensor:
        """(K · B, …) -> (B, …): combine logits, or anything that the logits are a linear function of."""
        coefficients = self.coefficients(len(predicted) // len(self), progress)
        return mix(predicted, np.arange(coefficients.size), coefficients)


class GuideModel(Protocol):
    """The part of `FourM` that guidance by a weaker model needs."""

    network: Transformer
    vocabulary: Vocabulary

    @property
    def tokenizers(self) -> Mapping[str, Tokenizer]: ...

    @property
    def modalities(self) -> Mapping[str, Modality]: ...


@dataclass(frozen=True)
class Guide:
    """A weaker version of the model to guide away from: an earlier checkpoint or a smaller model (autoguidance, arXiv
    2406.02507), or one fine-tuned for this purpose (self-guidance, arXiv 2410.13136).

    The logits become g + w (m − g), where g are the guide's logits given all inputs, and m the model's, which may
    themselves be guided by conditions. `weight`: w > 1, or a list of numbers as a schedule over the steps; 1 has no
    effect."""

    model: GuideModel
    weight: Weight

    def __post_init__(self) -> None:
        weights = self.weight if isinstance(self.weight, list) else [self.weight]
        if not weights or not all(map(is_weight, weights)):
            most = f"at most {MAX_WEIGHT:,}"
            raise ValueError(
                f"guide: the weight is a finite number, {most}, or a list of such; given: {self.weight!r:.80}"
            )
        if all(w == 1 for w in weights):
            raise ValueError("guide: a weight of 1 has no effect; raise it, or leave the guide out")

    def at(self, progress: float) -> float:
        """The weight at `progress`, from 0 at the first step to 1 at the last."""
        return _weight(self.weight, progress)

    def check(self, names: Collection[str], model: GuideModel) -> None:
        """Raise ValueError unless the tokens of the modalities `names` have the same meaning in the guide as in
        `model`."""
        for name in sorted(names):
            if name not in self.model.modalities:
                raise ValueError(f"guide: it has no modality {name!r}; choose a model that has")
            guide, modality = self.model.modalities[name], model.modalities[name]
            changed = compare(guide.identity(), modality.identity())
            listed = [f"{key} is {there} there, {here} here" for key, (there, here) in changed.items()]
            why, tokenizer = some(listed, "; "), model.tokenizers.get(name)
            if tokenizer is not None and self.model.tokenizers[name].fingerprint != tokenizer.fingerprint:
                why = why or "trained apart, though its settings are the same"
                raise ValueError(f"guide: its tokenizer of {name!r} is another ({why}); choose a model with the same")
            if (changed and tokenizer is None) or modality.spec.layout != guide.spec.layout:
                raise ValueError(f"guide: its {name!r} has other settings ({why}); choose a model with the same")


def progress(step: int, steps: int) -> float:
    """From 0 at the first step to 1 at the last."""
    return step / max(1, steps - 1)


def mix(predicted_R: Tensor, rows: np.ndarray, coefficients: np.ndarray) -> Tensor:
    """(R, …) -> (B, …): the sum over branches weighted by `coefficients` (K, B). `rows` (K · B) gives, branch by
    branch, the index of each (branch, sample) on the first axis; it is ignored where the coefficient is 0."""
    taken, rows = coefficients != 0, rows.reshape(coefficients.shape)
    if (taken.sum(0) == 1).all():  # a single branch per sample, with coefficient 1
        only = rows[taken.argmax(0), np.arange(coefficients.shape[1])]
        same = len(only) == len(predicted_R) and (only == np.arange(len(only))).all()
        return predicted_R if same else predicted_R[to_device(only, predicted_R.device)]
    if not on_host(predicted_R):
        row_KB = to_device(np.where(taken, rows, 0), predicted_R.device)
        coefficient_KB = to_device(coefficients.astype(np.float32), predicted_R.device)
        return mix_on_device(predicted_R, row_KB, coefficient_KB)
    total = predicted_R.new_zeros((coefficients.shape[1], *predicted_R.shape[1:]), dtype=torch.float32)
    for coefficient_B, row_B, taken_B in zip(coefficients, rows, taken, strict=True):
        at = torch.from_numpy(np.flatnonzero(taken_B))
        part = predicted_R[torch.from_numpy(row_B[taken_B])]
        weight = torch.from_numpy(coefficient_B[taken_B]).float()
        total.index_add_(0, at, part.float() * weight.view(-1, *[1] * (part.ndim - 1)))
    return total.to(predicted_R.dtype)


def mix_on_device(predicted_R: Tensor, row_KB: Tensor, coefficient_KB: Tensor) -> Tensor:
    """`mix` on the device: (R, …) -> (B, …). A row whose coefficient is 0 must be finite."""
    coefficient = coefficient_KB.view(*coefficient_KB.shape, *[1] * (predicted_R.ndim - 1))
    return (predicted_R[row_KB].float() * coefficient).sum(0).to(predicted_R.dtype)


def _weight(weight: Weight, progress: float) -> float:
    if not isinstance(weight, list):
        return float(weight)
    return float(np.interp(progress, np.linspace(0, 1, len(weight)), weight))


def single_branch(stage: Stage, sequences: Mapping[str, SequenceIds]) -> Branches:
    """The single branch of a stage without guidance."""
    return Branches((frozenset(),), [], _placeholders(stage, sequences), stage.target)


def _placeholders(stage: Stage, sequences: Mapping[str, SequenceIds]) -> dict[str, Shown]:
    return {name: Shown.tokens([ids.start]) for name, ids in sequences.items()} if stage.prompt_sentinel else {}


def branches_of(stage: Stage, samples: Sequence[Sample], sequences: Mapping[str, SequenceIds]) -> Branches:
    """The branches of a stage, at least one.

    Raises ValueError for a weight of something that is not a condition, and for a weight given twice."""
    conditions = sorted({name for sample in samples for name in sample.shown} - {stage.target})
    placeholders = _placeholders(stage, sequences)
    regions = {key for sample in samples for key in sample.regions}
    weighted = ({name for sample in samples for name in sample.weights} | regions) - {stage.target}
    named = stage.guidance.keys() if isinstance(stage.guidance, dict) else set[str]()
    if weighted and stage.guidance is not None and (not named or named & weighted):
        raise ValueError(f"guidance is given both with {', '.join(sorted(weighted))} and in the plan; drop one")
    if weighted or isinstance(stage.guidance, dict):
        common = stage.guidance if isinstance(stage.guidance, dict) else {}
        names = sorted(weighted | common.keys())
        for name in names:
            if name not in conditions and name not in regions:
                raise unknown_condition(name, stage.target, conditions)
        hidden = [frozenset(names), *(frozenset(names) - {name} for name in names)]
        # A condition without a weight has weight 1; a region that a sample lacks has weight 0.
        of_samples = [
            dict.fromkeys(regions, 0.0) | {k: r.weight for k, r in s.regions.items()} | s.weights for s in samples
        ]
        weights: list[list[Weight]] = [[common.get(name, w.get(name, 1.0)) for w in of_samples] for name in names]
        # The published code inserts placeholders for hidden sequences only with a single weight.
        target_alone = {name: shown for name, shown in placeholders.items() if name == stage.target}
        return Branches(tuple(hidden), weights, target_alone, stage.target)
    weight: Weight = 1.0 if stage.guidance is None else stage.guidance
    if weight == 1.0 or not conditions:
        return single_branch(stage, sequences)
    hidden = [frozenset(conditions), frozenset()]
    return Branches(tuple(hidden), [[weight] * len(samples)], placeholders, stage.target)


def unknown_condition(name: str, target: str, conditions: Iterable[str]) -> ValueError:
    """The error for a guidance weight of something that is not a condition of `target`."""
    hint = did_you_mean(name, conditions, otherwise="conditions are:")
    return ValueError(f"guidance weight for {name!r}, which is not a condition of {target}; {hint}")

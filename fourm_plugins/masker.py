"""Masker: which tokens of a modality are shown to the encoder, and which the decoder predicts.

Called once for each modality of a sample, with budgets that the engine has drawn; NumPy only, a pure function of its
arguments and the generator.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import numpy as np

from fourm_plugins.spec import ModalitySpec

#: Decoder input of a token that is predicted in parallel: the learned mask token.
MASK = -1


def _none() -> np.ndarray:
    return np.zeros(0, np.int64)


@dataclass(frozen=True)
class Masked:
    """Six int64 vectors: n input tokens and m target tokens.

    A target row enters the decoder as `target_ids` (`MASK`, or a known token whose successor is the target), at
    position `target_pos`, and is scored against `labels`. Row q attends to row k of its modality where
    order[k] <= order[q]. Token ids are local to the modality's token space."""

    input_ids: np.ndarray = field(default_factory=_none)  # (n,)
    input_pos: np.ndarray = field(default_factory=_none)  # (n,)
    target_ids: np.ndarray = field(default_factory=_none)  # (m,)
    target_pos: np.ndarray = field(default_factory=_none)  # (m,)
    target_order: np.ndarray = field(default_factory=_none)  # (m,)
    labels: np.ndarray = field(default_factory=_none)  # (m,)


@dataclass(frozen=True)
class Specials:
    """Special ids of a sequence's token space; what a masker of sequences needs to know of its tokenizer."""

    end: int
    sentinels: tuple[int, ...]


class Masker(ABC):
    """`specials` is None unless the modality is a sequence."""

    def __init__(self, spec: ModalitySpec, specials: Specials | None = None) -> None:
        self.spec = spec
        self.specials = specials

    @abstractmethod
    def mask(
        self, ids: np.ndarray, *, input_budget: int, target_budget: int, keep: str, rng: np.random.Generator
    ) -> Masked:
        """ids: int64 (tokens,), for a sequence without its end marker. At most `input_budget` inputs and
        `target_budget` targets, disjoint. `keep` is the mixture's scheme for sequences: "random", "all" or "binary".
        A continuous modality gets ids = arange(tokens) and target_budget = 0."""

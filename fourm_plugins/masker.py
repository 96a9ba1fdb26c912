"""Masker: chooses the tokens of a modality that the encoder sees, and those that the decoder predicts.

It is called once for each modality of a sample, with budgets drawn by the engine. A masker uses NumPy only and is a
pure function of its arguments and the generator.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from fourm_plugins.spec import ModalitySpec

if TYPE_CHECKING:
    from jaxtyping import Int
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

    input_ids: Int[np.ndarray, " n"] = field(default_factory=_none)
    input_pos: Int[np.ndarray, " n"] = field(default_factory=_none)
    target_ids: Int[np.ndarray, " m"] = field(default_factory=_none)
    target_pos: Int[np.ndarray, " m"] = field(default_factory=_none)
    target_order: Int[np.ndarray, " m"] = field(default_factory=_none)
    labels: Int[np.ndarray, " m"] = field(default_factory=_none)


@dataclass(frozen=True)
class SpecialTokens:
    """Special ids of a sequence's token space: all that a masker needs from its tokenizer."""

    #: The end marker, which follows the last token.
    end_id: int
    #: Ids that represent masked spans, in order of use.
    sentinel_ids: tuple[int, ...]


class Masker(ABC):
    """Masks one modality (4M, arXiv 2312.06647, section 2.3), described by `spec`. `special_tokens` is None unless
    it is a sequence."""

    def __init__(self, spec: ModalitySpec, special_tokens: SpecialTokens | None = None) -> None:
        self.spec = spec
        self.special_tokens = special_tokens

    @abstractmethod
    def mask(
        self,
        ids: Int[np.ndarray, " tokens"],
        *,
        input_budget: int,
        target_budget: int,
        keep: str,
        rng: np.random.Generator,
    ) -> Masked:
        """Choose at most `input_budget` inputs and `target_budget` targets, disjoint.

        Args:
            ids: int64, local to the token space; for a sequence without the end marker, for a continuous modality
                arange(tokens).
            input_budget, target_budget: at least 0; for a continuous modality, `target_budget` is 0.
            keep: the mixture's scheme for sequences: "random", "all" or "binary".
            rng: the only source of randomness."""

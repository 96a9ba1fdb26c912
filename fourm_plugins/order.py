"""Decoding orders: which and how many tokens of a grid or vector are kept after each step, and which are masked again.

A package adds an order by an entry point of group `fourm.orders.v1`: a subclass of `DecodingOrder`, or a function
`score(confidence_N, unknown_N, step, steps, uniform_N)`. All tensors are torch's, on the model's device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fourm_plugins.spec import Layout

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Predicted:
    """One sample after a step's prediction: n tokens, u of which were unknown before the step."""

    #: The step, counted from 0, of at most `steps`.
    step: int
    steps: int
    #: Number of tokens that the stage's schedule keeps in this step; all in the last one.
    count: int
    #: Tokens predicted in this step.
    unknown: Bool[Tensor, " n"]
    #: Tokens given by the user, which are always kept.
    given: Bool[Tensor, " n"]
    #: float32: log-probability of each token when it was sampled; 0 for a given one.
    confidence: Float[Tensor, " n"]
    #: float32: the model's logits of the unknown tokens, ordered by position.
    logits: Float[Tensor, "u V"]
    #: float32 in [0, 1): fresh random numbers for each step, derived from the sample's seed.
    uniform: Float[Tensor, " n"]


class DecodingOrder:
    """An order that does more than score tokens. It is constructed once per stage, is called once per step and sample,
    and is a pure function of its arguments. The base class implements MaskGIT's order: it keeps the most confident
    tokens, as many as the schedule says."""

    #: Whether it may keep more tokens than the schedule says, so that a sample can finish early.
    adaptive: ClassVar[bool] = False

    def __init__(self, layout: Layout) -> None:
        """An order with settings takes them as keywords, from `Stage(scheme=…, order={name: value})`, and raises
        ValueError, one line, for an invalid value."""
        self.layout = layout

    def fixed_scores(self) -> Float[Tensor, " n"] | None:
        """Scores of all tokens if they do not depend on predictions: each step then predicts only the tokens that it
        keeps. None if `score` decides."""
        return None

    def score(self, predicted: Predicted) -> Float[Tensor, " n"]:
        """The scores; the unknown tokens with the highest ones are kept."""
        return predicted.confidence

    def count(self, predicted: Predicted) -> int:
        """Number of tokens that an `adaptive` order keeps: at least `predicted.count`, the schedule's number."""
        return predicted.count

    def remask(self, predicted: Predicted) -> Bool[Tensor, " n"] | None:
        """Known tokens, none of them given, to mask again after this step; a later step predicts them once more, in
        addition to the schedule's number. Not called in the last step."""
        return None

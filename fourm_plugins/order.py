"""Decoding orders: which tokens of a grid or vector stay after each step, how many, and which are forgotten again.

A package adds one as an entry point of group `fourm.orders.v1`: a subclass of `DecodingOrder`, or a function that
scores, `score(confidence_N, unknown_N, step, steps, uniform_N)`. All tensors are torch's, on the model's device.
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
    """What an order knows of one sample after a step's prediction: n tokens, of which u were unknown before it."""

    #: Counted from 0, and how many there are at most.
    step: int
    steps: int
    #: How many tokens the stage's schedule keeps in this step; in the last step all.
    count: int
    #: Tokens that are predicted in this step.
    unknown: Bool[Tensor, " n"]
    #: Tokens that the user gave; they stay whatever happens.
    given: Bool[Tensor, " n"]
    #: float32: log-probability of the token that was drawn; of a known token, when it was; of a given one 0.
    confidence: Float[Tensor, " n"]
    #: float32: the model's logits of the unknown tokens, in the order of their positions.
    logits: Float[Tensor, "u V"]
    #: float32 in [0, 1), drawn anew in each step from the sample's seed.
    uniform: Float[Tensor, " n"]


class DecodingOrder:
    """An order that does more than score: made once a stage, asked once a step and sample, a pure function of what it
    is told. By default it is MaskGIT: the most confident tokens stay, as many as the schedule says."""

    #: Whether it may keep more tokens than the schedule says, so that a sample is done before the last step.
    adaptive: ClassVar[bool] = False

    def __init__(self, layout: Layout) -> None:
        """An order with settings takes them as keywords, `Stage(scheme=…, order={name: value})`; raises ValueError, one
        line, for a value that it cannot use."""
        self.layout = layout

    def beforehand(self) -> Float[Tensor, " n"] | None:
        """Scores of all tokens that no prediction changes: then a step predicts no token but those that stay. None
        where `score` decides."""
        return None

    def score(self, predicted: Predicted) -> Float[Tensor, " n"]:
        """The unknown tokens with the highest scores stay."""
        return predicted.confidence

    def count(self, predicted: Predicted) -> int:
        """How many tokens stay, of an `adaptive` order: at least `predicted.count`, which keeps pace with the
        schedule."""
        return predicted.count

    def forget(self, predicted: Predicted) -> Bool[Tensor, " n"] | None:
        """Known tokens, none of them given, that are unknown again after this step; they are predicted once more in a
        later one, beside what the schedule reveals there. The last step does not ask."""
        return None

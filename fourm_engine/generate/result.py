"""What generation gives back for one target of one sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from fourm_plugins.modality import Modality


@dataclass(frozen=True)
class Generated:
    """`value` is the modality's own (metres, a picture, a string, a list of boxes). `tokens` are the ids that were
    chosen, int64 (n,), local to the modality's token space, a sequence without its end marker.

    `decoded_from` tells what the value comes from. "tokens": from `tokens`, so that the tokenizer decodes them to this
    value. "probabilities": from the model's distribution over the ids at each position, as their probability-weighted
    code; `tokens` are then the ids chosen beside it, in one step the likeliest, which decode to a similar value but not
    to this one.

    `given`: of an edit of a picture (`Condition(value, keep=mask)`), bool (H, W), True where the value is what was
    given and nothing was decoded; None for anything else."""

    modality: Modality
    tokens: np.ndarray
    value: Any
    decoded_from: Literal["tokens", "probabilities"] = "tokens"
    given: np.ndarray | None = None

    def render(self) -> Any:
        """What to show a person: a `PIL.Image`, or a string."""
        return self.modality.render(self.value)

    def remark(self) -> str:
        """What the modality says of its value, such as what did not parse and was dropped; '' for nothing."""
        return self.modality.remark(self.value)

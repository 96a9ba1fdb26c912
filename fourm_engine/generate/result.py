"""What generation gives back for one target of one sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fourm_plugins.modality import Modality


@dataclass(frozen=True)
class Generated:
    """`value` is the modality's own (metres, a picture, a string, a list of boxes); `tokens` the ids it came from,
    int64 (n,), local to the modality's token space, a sequence without its end marker."""

    modality: Modality
    tokens: np.ndarray
    value: Any

    def render(self) -> Any:
        """What to show a person: a `PIL.Image`, or a string."""
        return self.modality.render(self.value)

    def remark(self) -> str:
        """What the modality says of its value, such as what did not parse and was dropped; '' for nothing."""
        return self.modality.remark(self.value)

"""What a task's model says of one sample: classes with their probabilities, or a value of the modality it predicts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fourm_engine.drawing import SIDE, show
from fourm_plugins.modality import Modality


@dataclass(frozen=True)
class Classes:
    """`probabilities`: class -> probability, the likeliest first. Of `several` classes each is by itself; otherwise
    they sum to 1."""

    probabilities: dict[str, float]
    several: bool = False

    def likeliest(self, k: int = 5) -> list[tuple[str, float]]:
        return list(self.probabilities.items())[:k]


@dataclass(frozen=True, repr=False)
class Mapped:
    """`value`, as `modality` has it: class ids (H, W), metres, … at the size that was learned."""

    modality: Modality[Any]
    value: Any

    def render(self) -> Any:
        """What to show a person: a `PIL.Image`."""
        return self.modality.render(self.value)

    def show(self, *, side: int = SIDE) -> Any:
        """`render` with what explains its colours, a scale or a key of classes, at `side` pixels."""
        return show(self.modality, self.value, side=side)

    def __repr__(self) -> str:
        return f"<Mapped {self.modality.name!r}: {self.value.dtype} {self.value.shape}>"


Answer = Classes | Mapped

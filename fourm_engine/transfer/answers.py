"""Answers of a task's model for one sample: classes with probabilities, or a value of the target modality."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fourm_engine.drawing import SIDE, show
from fourm_plugins.modality import Modality


@dataclass(frozen=True)
class Classes:
    """`probabilities`: class -> probability, most likely first. They sum to 1, or with `several` classes are
    independent."""

    probabilities: dict[str, float]
    several: bool = False

    def likeliest(self, k: int = 5) -> list[tuple[str, float]]:
        return list(self.probabilities.items())[:k]


@dataclass(frozen=True, repr=False)
class Mapped:
    """`value`: a value of `modality` at the training size, such as class ids (H, W) or metres."""

    modality: Modality[Any]
    value: Any

    def render(self) -> Any:
        """The value as a `PIL.Image`."""
        return self.modality.render(self.value)

    def show(self, *, side: int = SIDE) -> Any:
        """`render` with its legend, a scale or a key of classes, at `side` pixels."""
        return show(self.modality, self.value, side=side)

    def __repr__(self) -> str:
        return f"<Mapped {self.modality.name!r}: {self.value.dtype} {self.value.shape}>"


Answer = Classes | Mapped

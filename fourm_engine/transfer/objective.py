"""Objective: what a head learns, as targets, loss, held-out metrics and answers.

One class a kind of task (`classification`, `dense`). A head knows none of it: it makes (B, outputs), or a map.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.views import SampleViews
from fourm_engine.transfer.answers import Answer
from fourm_plugins.modality import Modality

if TYPE_CHECKING:
    from jaxtyping import Float

#: Target -> its numbers, of one sample.
Target = dict[str, np.ndarray]


class Metrics(ABC):
    """Held-out metrics of one process. The `numbers` of all processes are summed."""

    @abstractmethod
    def add(self, output: Tensor, targets: Mapping[str, Tensor], truths: Sequence[Any]) -> None:
        """Adds the outputs of n samples, their targets, and their true values in the modality's units (None without
        one)."""

    @abstractmethod
    def numbers(self) -> list[float]:
        """As many in every process."""

    @abstractmethod
    def scores(self, numbers: Sequence[float]) -> dict[str, float]:
        """The metrics, from the sums of `numbers`."""


class Objective(ABC):
    kind: ClassVar[str]
    #: Numbers that a head makes a sample, or a pixel; (H, W) of its map, None for one vector.
    outputs: int
    size: tuple[int, int] | None = None
    #: What the loss is called, and what it is a mean over.
    loss_name: str
    #: The measure that says which of two evaluations is better, and whether more of it is.
    best: tuple[str, bool]
    #: The modality that is learned, where the target is one.
    modality: Modality[Any] | None = None

    @abstractmethod
    def target(self, data: AlignedData, name: str, views: SampleViews, number: int) -> tuple[Target, Any]:
        """The target of a sample through a view, and its true value in the modality's units (None without one). Raises
        BadFile."""

    def has(self, data: AlignedData, row: int) -> bool:
        """Whether the sample with this number in `data.names` has a target, as far as is known without reading it."""
        return True

    @abstractmethod
    def count(self, targets: Mapping[str, Tensor]) -> int:
        """Number of items that `loss` sums over, computed on the host."""

    @abstractmethod
    def loss(self, output: Tensor, targets: Mapping[str, Tensor]) -> Float[Tensor, ""]:
        """The sum over all items, float32."""

    @abstractmethod
    def metrics(self) -> Metrics: ...

    @abstractmethod
    def answer(self, output: Tensor) -> Answer:
        """The answer for one sample, from its output (outputs,) or (outputs, H, W)."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What is learned, as JSON: equal in all processes and after a resume."""


def stacked(targets: Sequence[Target]) -> dict[str, Tensor]:
    """The targets of a batch."""
    return {key: torch.from_numpy(np.stack([one[key] for one in targets])) for key in targets[0]}

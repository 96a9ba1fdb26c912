"""Objective: what a head learns: the targets of samples, the loss, held-out measures, and what an answer is.

One class a kind of task (`classification`, `dense`, `detection`). A head knows none of it: it makes what
`HeadSpec` says.
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
from fourm_engine.train.distributed import sum_numbers
from fourm_engine.transfer.answers import Answer
from fourm_plugins.modality import Modality

if TYPE_CHECKING:
    from jaxtyping import Float

#: Target -> its numbers, of one sample.
Target = dict[str, np.ndarray]


class Measures(ABC):
    """Held-out measures."""

    @abstractmethod
    def add(self, output: Tensor, targets: Mapping[str, Tensor], truths: Sequence[Any]) -> None:
        """The outputs of n samples, their targets, and their true values as the modality has them (None without
        one)."""

    @abstractmethod
    def of_all(self) -> dict[str, float]:
        """The measures over all processes; every one must call it."""


class Sums(Measures):
    """Measures that follow from numbers which are added up over the processes."""

    @abstractmethod
    def numbers(self) -> list[float]:
        """As many in every process."""

    @abstractmethod
    def scores(self, numbers: Sequence[float]) -> dict[str, float]:
        """The measures, from the sums of `numbers`."""

    def of_all(self) -> dict[str, float]:
        return self.scores(sum_numbers(self.numbers()))


class Objective(ABC):
    kind: ClassVar[str]
    #: Numbers that a head makes a sample, or a pixel; (H, W) of its map, None for one vector.
    outputs: int
    size: tuple[int, int] | None = None
    #: (h, w) of the grids of a detector.
    levels: tuple[tuple[int, int], ...] = ()
    #: What the loss is called, and what it is a mean over.
    loss_name: str
    #: The measure that says which of two evaluations is better, and whether more of it is.
    best: tuple[str, bool]
    #: The modality that is learned, where the target is one.
    modality: Modality[Any] | None = None

    @abstractmethod
    def target(self, data: AlignedData, name: str, views: SampleViews, number: int) -> tuple[Target, Any]:
        """What is learned of a sample, seen through a view, and its true value in the modality's units (None without
        one). Raises BadFile."""

    def has(self, data: AlignedData, row: int) -> bool:
        """Whether the sample with this number in `data.names` has a target, as far as is known without reading it."""
        return True

    @abstractmethod
    def count(self, targets: Mapping[str, Tensor]) -> int:
        """How many items `loss` sums over, on the host."""

    @abstractmethod
    def loss(self, output: Tensor, targets: Mapping[str, Tensor]) -> Float[Tensor, ""]:
        """The sum over all items, float32."""

    @abstractmethod
    def measures(self) -> Measures: ...

    @abstractmethod
    def answer(self, output: Tensor) -> Answer:
        """What is told of one sample, from what a head makes of it, on the CPU."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """JSON: what is learned. The same in every process, and when a run is resumed."""


def stacked(targets: Sequence[Target]) -> dict[str, Tensor]:
    """The targets of a batch."""
    return {key: torch.from_numpy(np.stack([one[key] for one in targets])) for key in targets[0]}

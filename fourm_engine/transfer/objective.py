"""Objective: the targets, loss, held-out metrics and predictions of a task.

One class per kind of task (`classification`, `dense`, `detection`, `retrieval`). Heads do not depend on it, only on
`HeadSpec`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.views import SampleViews
from fourm_engine.masking.pack import Shown
from fourm_engine.train.config import TrainConfig
from fourm_engine.train.distributed import sum_numbers
from fourm_engine.transfer.answers import Answer
from fourm_engine.transfer.config import ClassificationConfig, DetectionConfig
from fourm_engine.vocabulary import Vocabulary
from fourm_plugins.modality import Modality

if TYPE_CHECKING:
    from jaxtyping import Float

#: The target of one sample: name -> array.
Target = dict[str, np.ndarray]


class Metrics(ABC):
    """The held-out metrics of a task."""

    @abstractmethod
    def update(self, output: Tensor, targets: Mapping[str, Tensor], truths: Sequence[Any]) -> None:
        """Add the outputs of n samples, their targets, and their true values in the modality's units (None without
        one)."""

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """The metrics over all processes, which must all call this."""


class SumMetrics(Metrics):
    """Metrics computed from `sums` of this process, which are summed over all."""

    sums: np.ndarray

    @abstractmethod
    def scores(self, sums: np.ndarray) -> dict[str, float]:
        """The metrics, from the sums over all processes."""

    def compute(self) -> dict[str, float]:
        return self.scores(np.array(sum_numbers(self.sums.tolist())))


class Objective(ABC):
    kind: ClassVar[str]
    #: Number of outputs of the head per sample or pixel; (H, W) of its map, None for a vector.
    outputs: int
    size: tuple[int, int] | None = None
    #: (h, w) of the grids of a detector.
    levels: tuple[tuple[int, int], ...] = ()
    #: Name of the loss, including what it is averaged over.
    loss_name: str
    #: The metric by which to compare evaluations: (name, whether higher is better).
    monitor: tuple[str, bool]
    #: The modality to learn, if the target is one.
    modality: Modality[Any] | None = None
    #: What a usable sample has, given the names of the inputs; and the fewest such samples that say anything.
    needs: ClassVar[str] = "an input ({}) and a target"
    fewest: ClassVar[int] = 1
    #: Whether held-out metrics are of all alternatives of an input (the five captions of a picture), not of the first.
    alternatives: ClassVar[bool] = False

    @abstractmethod
    def describe(self) -> str:
        """What is learned, in a few words."""

    @abstractmethod
    def target(
        self, data: AlignedData, name: str, views: SampleViews, number: int, shown: Mapping[str, Shown]
    ) -> tuple[Target, Any]:
        """The target of a sample through a view, and its true value in the modality's units (None without one);
        `shown`: its inputs. Raises BadFile."""

    def alternative(self, shown: Mapping[str, Shown]) -> Target:
        """The target of a further alternative of a held-out sample, empty where these do not count; `shown`: the inputs
        that are encoded with it."""
        return {}

    def has_target(self, data: AlignedData, row: int) -> bool:
        """Whether the sample with this number in `data.names` has a target, as far as is known without reading it."""
        return True

    def groups(self, names: Collection[str]) -> list[list[str]]:
        """The inputs `names`, grouped into those that are encoded together: all, by default."""
        return [list(names)]

    def head(self, make: Callable[[], nn.Module], inputs: Vocabulary) -> nn.Module:
        """What stands on the encoder, from a function that makes the head of the config."""
        return make()

    def check(self, config: TrainConfig) -> None:  # noqa: B027 (most tasks learn from any batch)
        """Raise ValueError for settings of training with which nothing is learned."""

    def check_inputs(self, names: Collection[str]) -> None:  # noqa: B027 (any may be given to most tasks)
        """Raise ValueError for inputs that cannot be given together for a prediction."""

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
        """The prediction for one sample, from the head's output, on the CPU."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """The objective's identity, as JSON: equal in all processes and after a resume."""


def of_labels(config: ClassificationConfig | DetectionConfig, classes: Sequence[str]) -> dict[str, Any]:
    """`Objective.identity` for classes defined by label files."""
    settings = config.model_dump(mode="json", exclude={"labels", "val_labels"})
    return {**{f"task.{key}": value for key, value in settings.items()}, "task.classes": list(classes)}


def stack_targets(targets: Sequence[Target]) -> dict[str, Tensor]:
    """The targets of a batch."""
    return {key: torch.from_numpy(np.stack([target[key] for target in targets])) for key in targets[0]}

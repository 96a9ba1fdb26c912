"""The interface to an engine that the checks use: `Harness` and `TinyModel`, abstract, so that the SDK does not depend
on one.

An engine provides a subclass of `Harness` through an entry point of the group `fourm.conformance.v1`. Without one, the
checks that need a model are reported as "not run", never as passed.
"""

from __future__ import annotations

import importlib.metadata
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fourm_plugins.manager import Plugin, PluginManager
from fourm_plugins.masker import Masked, Masker
from fourm_plugins.modality import Modality
from fourm_plugins.testing.check import NotRun
from fourm_plugins.tokenizer import Tokenizer

GROUP = "fourm.conformance.v1"


@dataclass(frozen=True)
class Member:
    """One modality of a tiny model. `arrays` has the same samples, in the same order, as every other member's; a
    continuous modality has neither tokenizer nor targets."""

    modality: Modality[Any]
    plugin: Plugin
    tokenizer: Tokenizer | None
    masker: Masker
    arrays: Sequence[Any]

    @property
    def name(self) -> str:
        return self.modality.name


class TinyModel(ABC):
    """A trained or loaded model, in evaluation mode on the CPU."""

    @property
    @abstractmethod
    def losses(self) -> Mapping[str, Sequence[float]]:
        """Modality -> nats per target token in each step with such a target. Empty for a loaded model."""

    @abstractmethod
    def gradients(self, name: str) -> dict[str, float]:
        """Norms of a training batch's gradients at the parameters of a modality: "input rows" (its rows of the
        encoder's table, or the projection of a continuous input), "output rows" and, of a sequence, "decoder rows".
        Parts that it does not have are absent."""

    @abstractmethod
    def forward(
        self, masked: Mapping[str, Masked], arrays: Mapping[str, Any]
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Run one masked sample: the encoder's output (n, D), and for each modality with targets the logits of its
        target rows (m, size). `arrays` holds the arrays of continuous modalities."""

    @abstractmethod
    def generate(self, target: str, given: Mapping[str, np.ndarray], *, seed: int) -> tuple[np.ndarray, Any]:
        """(ids, value) of `target`, generated from the token ids of other modalities: sampled, decoded and
        denormalised."""

    @abstractmethod
    def encode(self, name: str, array: Any) -> np.ndarray:
        """The ids of an array by this model's tokenizer."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the checkpoint."""


class Harness(ABC):
    """Makes tokenizers and tiny models in seconds on one core, deterministically."""

    @abstractmethod
    def fit(self, tokenizer: Tokenizer, arrays: Sequence[Any]) -> None:
        """Fit a tokenizer on a few arrays, as fast as a test needs."""

    @abstractmethod
    def train(self, members: Sequence[Member], manager: PluginManager, *, steps: int, seed: int) -> TinyModel:
        """A model of these modalities, each predicted from all others."""

    @abstractmethod
    def load(self, folder: Path, manager: PluginManager) -> TinyModel:
        """Load a saved model with the plugins of `manager`. Raises ValueError for a missing one, on generation at the
        latest."""


def find_harness() -> Harness:
    """The installed engine's harness. Raises `NotRun` if there is none."""
    entry_points = sorted(importlib.metadata.entry_points(group=GROUP), key=lambda entry_point: entry_point.value)
    if not entry_points:
        raise NotRun("fourm-engine is not installed (pip install fourm-engine)")
    harness = entry_points[0].load()()
    assert isinstance(harness, Harness)
    return harness

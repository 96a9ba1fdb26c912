"""SampleSource: raw samples that lie neither in folders nor in tars, such as the rows of a table or of a database.

`data.train: NAME:LOCATION?key=value` opens what the entry point NAME (group `fourm.sources.v1`) provides with
`source(location, specs, key="value")`. What its files hold goes through the same checks, bounds and transforms as those
of a folder.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool


class SampleSource(ABC):
    """The samples at one location, opened as `cls(location, specs, **settings)`: `location` is the text before `?`,
    `specs` are those of the modalities that take part (none where `splits` alone are wanted), settings are texts.
    Raises ValueError or OSError for what the user can mend: nothing at the location, a wrong setting.

    Every process that reads opens it anew: connections and open files are never shared or pickled. A process that only
    reads never asks for `names`, `present` and `splits`: make these when they are needed."""

    #: What was left out and why, a line a kind; logged once.
    notes: Sequence[str] = ()

    @property
    @abstractmethod
    def names(self) -> Sequence[str]:
        """The samples, each once, in any order. A name is the same tomorrow: tokens, splits and the order of a run go
        by it. `/` separates folders."""

    @abstractmethod
    def present(self, modality: str) -> Bool[np.ndarray, " samples"]:
        """Which of `names`, in their order, have the modality of that name; its spec is among `specs`."""

    @abstractmethod
    def files(self, name: str, modality: str) -> Mapping[str, bytes]:
        """{extension: content} as the modality's files would have it, with extensions of its spec; at least one. Raises
        SampleError for content that cannot be used, which is reported and skipped."""

    @abstractmethod
    def stamp(self, name: str, modality: str) -> str:
        """Tells, without reading it, whether content may have changed: equal where it has not, such as a version, or
        size and time of the file that holds it."""

    def where(self, name: str, modality: str) -> str:
        """Below the location, for messages: what a user would look up."""
        return f"{name} ({modality})"

    @property
    def splits(self) -> Mapping[str, Sequence[str]]:
        """{split: names}, which `data.train_split` and `data.val_split` choose from."""
        return {}

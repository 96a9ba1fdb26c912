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
    `specs` are those of the modalities in use (none if only `splits` are wanted), settings are strings. This and each
    method raise ValueError or OSError for what the user can mend: nothing at the location, a wrong setting, a damaged
    file.

    Every reading process opens it anew: connections and open files are never shared or pickled. A process that only
    reads files never uses `names`, `present` and `splits`: compute these on first use."""

    #: What was left out and why, one line for each reason; logged once.
    notes: Sequence[str] = ()

    @property
    @abstractmethod
    def names(self) -> Sequence[str]:
        """The samples' names, each once, in any order. A name must stay the same: tokens, splits and the order of a run
        depend on it. `/` separates folders."""

    @abstractmethod
    def present(self, modality: str) -> Bool[np.ndarray, " samples"]:
        """Which of `names`, in that order, have `modality`, one of `specs`."""

    @abstractmethod
    def files(self, name: str, modality: str) -> Mapping[str, bytes]:
        """{extension: content} as the modality's files would hold it, at least one, with extensions of its spec. Raises
        SampleError for content that cannot be used; it is reported and skipped."""

    @abstractmethod
    def stamp(self, name: str, modality: str) -> str:
        """Tells without reading whether content may have changed: equal as long as it has not, such as a version, or
        the size and time of the file that holds it."""

    def where(self, name: str, modality: str) -> str:
        """Where the content lies below the location, as a user would look it up; for messages."""
        return f"{name} ({modality})"

    @property
    def splits(self) -> Mapping[str, Sequence[str]]:
        """{split: names}, which `data.train_split` and `data.val_split` choose from."""
        return {}

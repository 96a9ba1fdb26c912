"""SampleSource: raw samples stored neither in folders nor in tars, such as the rows of a table or of a database.

`data.train: NAME:LOCATION?key=value` opens the class that the entry point NAME (group `fourm.sources.v1`) provides with
`source(location, specs, key="value")`. Its files go through the same checks, bounds and transforms as those of a
folder.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool


class SampleSource(ABC):
    """The samples at one location, opened as `cls(location, specs, **settings)`: `location` is the text before `?`,
    `specs` are those of the modalities in use (none if only `splits` or a `column` are wanted), settings are strings.
    The constructor and each method raise ValueError or OSError for errors that the user can fix: nothing at the
    location, a wrong setting, a damaged file.

    Every reading process opens it anew: connections and open files are never shared or pickled. A process that only
    reads files never uses `names`, `present` and `splits`: compute these lazily."""

    #: What was skipped and why, one line for each reason; logged once.
    notes: Sequence[str] = ()

    @property
    @abstractmethod
    def names(self) -> Sequence[str]:
        """The samples' names, unique, in any order. A name must be stable: tokens, splits and the order of a run depend
        on it. `/` separates folders."""

    @abstractmethod
    def present(self, modality: str) -> Bool[np.ndarray, " samples"]:
        """Which of `names`, in that order, have `modality`, the name of one of `specs`. Modalities with equal
        `spec.files`, such as `rgb` and `rgb@pixels`, read the same data."""

    @abstractmethod
    def files(self, name: str, modality: str) -> Mapping[str, bytes]:
        """{extension: content} like the modality's files, at least one, with extensions of its spec. Raises SampleError
        for unusable content, which is reported and skipped."""

    @abstractmethod
    def stamp(self, name: str, modality: str) -> str:
        """A stamp that detects changed content without reading it: equal as long as the content is, such as a version,
        or the size and time of the file that stores it."""

    def where(self, name: str, modality: str) -> str:
        """Where the content lies below the location, in terms that a user can look up; for messages."""
        return f"{name} ({modality})"

    def column(self, name: str) -> Mapping[str, Any]:
        """{sample: value} of a column that no modality reads, such as the classes that `task.labels: {column: NAME}`
        learns: text, a number, or a list or {field: value} of these, without the samples that have none; the id of a
        class as its name, of none as None. Raises ValueError if there is no such column."""
        raise ValueError(f"has no columns, so no {name!r}")

    def column_type(self, name: str) -> Any:
        """The type of the values of `column`, known without reading them, so that a wrong column is told at once:
        "text", "integer", "number", or another word for what is none of these; a tuple of their names for classes;
        [type] for a list; {field: type} for fields. None if it is unknown. Raises ValueError as `column` does."""
        return None

    @property
    def splits(self) -> Mapping[str, Sequence[str]]:
        """{split: names}, which `data.train_split` and `data.val_split` choose from."""
        return {}

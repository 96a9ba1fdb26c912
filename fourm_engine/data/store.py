"""Store: knows which samples there are and what each has, and loads one modality of one.

A store knows nothing about vocabularies, masks or order: `fourm_engine.data.samples` makes training samples of what it
loads. `DataStore` reads token shards and raw files, `MemoryStore` holds everything.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fourm_engine.data.bad_files import BadFile
from fourm_engine.data.names_table import lines_of
from fourm_plugins.counting import counted


class Store(ABC):
    """Samples by row, from 0. A subclass sets `names` and defines `has` and `load`; the other methods have defaults.
    Their results depend only on the arguments and are equal in every process, whenever and in whatever order samples
    are loaded. Data loaders copy a store into their workers, so it can be pickled and survives a fork: files and
    connections are opened by each process when it first needs them, and are no part of the pickled state.
    """

    #: The name of each row, for messages; may be lazy. Positions are mapped to rows, so their order must not change
    #: from run to run.
    names: Sequence[str]
    #: Views of each sample: crops, flips and alternatives, numbered from 0.
    views: int = 1

    def __len__(self) -> int:
        return len(self.names)

    @property
    def shard_sizes(self) -> np.ndarray:
        """int64 (shards,): samples of each shard, whose rows follow one another. Storage serves the rows of one shard
        best; a store that serves all rows alike is one shard."""
        return np.array([len(self)], np.int64)

    @abstractmethod
    def has(self, row: int) -> frozenset[str]:
        """Modalities that `load` can load for a sample, as far as is known without reading it."""

    def kinds(self) -> Counter[frozenset[str]]:
        """Set of modalities -> samples that have just these."""
        return Counter(self.has(row) for row in range(len(self)))

    @abstractmethod
    def load(self, row: int, modality: str, view: int = 0) -> np.ndarray:
        """What the model takes for one modality, through one view: int64 (tokens,), ids in the modality's token space
        (a sequence without its end marker), or float32 (tokens, patch_dim), the patches of a continuous input (see
        `fourm_engine.masking.pack.patchify`). All modalities of a sample show the same `view`.

        Raises BadFile for content that cannot be used."""

    #: Whether `ahead` does anything.
    reads_ahead: bool = False

    def ahead(self, rows: Sequence[int], *, now: bool = False) -> None:  # noqa: B027
        """Announces rows that will be loaded later, so that remote data can be fetched meanwhile; `now`: next, in this
        order."""

    def skip(self, row: int, bad: BadFile) -> None:
        """Called with what `load` raised: raises it, or reports it and returns. Then the sample is used without this
        modality."""
        raise bad

    def identity(self) -> dict[str, Any]:
        """What the content depends on besides tokenizers: the samples, and things such as the crops; JSON-ready. A run
        refuses to resume if it differs."""
        return {"names": hashlib.sha256(lines_of(self.names)).hexdigest()[:16]}

    def contents(self) -> dict[str, Any]:
        """What `identity` leaves out and the processes of a run compare at its start: which samples have which files,
        and what some of the files hold; JSON-ready."""
        return {}

    def describe(self) -> str:
        """How many samples of which data are used, in one line."""
        return counted(len(self), "sample")

    def report(self) -> str:
        """How many samples have each modality, in one line."""
        counts: Counter[str] = Counter()
        for modalities, samples in self.kinds().items():
            counts.update(dict.fromkeys(modalities, samples))
        parts = [f"{name} {count}" for name, count in sorted(counts.items())]
        return f"{counted(len(self), 'sample')}; {', '.join(parts)}"


def shared_facts(training: Store, held_out: Store | None) -> dict[str, Any]:
    """What the processes of a run compare of its data, by dotted key, in addition to the identity of `training`."""
    facts = {f"data.{key}": value for key, value in training.contents().items()}
    if held_out is None:
        return facts | {"data.val": None}
    seen = {"samples": len(held_out), **held_out.identity(), **held_out.contents()}
    return facts | {f"data.val.{key}": value for key, value in seen.items()}


class MemoryStore(Store):
    """Samples in memory. samples: name -> modality -> content, as `load` returns it. `names` keeps their order."""

    def __init__(self, samples: Mapping[str, Mapping[str, np.ndarray]]) -> None:
        self.names, self._samples = list(samples), list(samples.values())

    def has(self, row: int) -> frozenset[str]:
        return frozenset(self._samples[row])

    def load(self, row: int, modality: str, view: int = 0) -> np.ndarray:
        return self._samples[row][modality]

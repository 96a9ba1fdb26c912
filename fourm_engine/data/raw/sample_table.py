"""The samples of a data set that take part in a run, and the modalities of each."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from fourm_engine.data.names_table import Names, NameTable
from fourm_engine.data.raw.names import shown
from fourm_plugins.counting import counted

MAX_SHOWN_NAMES = 3


class SampleTable:
    """The samples of a table that take part, initially all that have a file.

    Args:
        modalities: those of the run, by name.
        present: modality -> bool (samples of the table,), which have a file, in any split."""

    #: The samples, sorted.
    names: Names

    def __init__(self, table: NameTable, modalities: Mapping[str, Any], present: Mapping[str, np.ndarray]) -> None:
        self.modalities, self._present = dict(modalities), dict(present)
        self._take(Names(table, np.flatnonzero(np.any(list(present.values()), axis=0))))

    def _take(self, names: Names) -> None:
        self.names = names
        self._used = np.zeros(len(names.table), bool)
        self._used[names.rows] = True

    def having(self, modality: str) -> Names:
        """The samples that have a file for the modality."""
        rows = np.flatnonzero(self._used & self._present[modality]) if modality in self._present else np.arange(0)
        return Names(self.names.table, rows)

    @property
    def counts(self) -> dict[str, int]:
        """Modality -> number of samples that have it."""
        return {name: len(self.having(name)) for name in self.modalities}

    def report(self) -> str:
        """The number of samples of each modality, and the first names that each lacks, in one line."""
        parts = []
        for name, count in self.counts.items():
            part = f"{name} {count}"
            if lacking := len(self.names) - count:
                some = [shown(name) for name in self.names.minus(self.having(name))[:MAX_SHOWN_NAMES]]
                part += f" (lacks {lacking}: {', '.join(some)}{', …' if lacking > len(some) else ''})"
            parts.append(part)
        return f"{counted(len(self.names), 'sample')}; " + ", ".join(parts)

    def has(self, name: str) -> set[str]:
        """Modalities that have a file for the sample."""
        row = self.names.table.row(name)
        return set() if row is None or not self._used[row] else self._has(row)

    def _has(self, row: int) -> set[str]:
        return {modality for modality, present in self._present.items() if present[row]}

    def has_at(self, index: int) -> set[str]:
        """Equals `has(names[index])`, but faster."""
        return self._has(int(self.names.rows[index]))

    def kinds(self) -> Counter[frozenset[str]]:
        """Set of modalities -> number of samples with exactly these."""
        columns = [present[self.names.rows] for present in self._present.values()]
        bits = np.packbits(np.stack(columns, axis=1), axis=1)
        words = np.pad(bits, ((0, 0), (0, -bits.shape[1] % 8))).view(np.uint64)
        words = words if words.shape[1] > 1 else words[:, 0]
        _, first, counts = np.unique(words, axis=0, return_index=True, return_counts=True)
        return Counter({frozenset(self.has_at(index)): int(n) for index, n in zip(first.tolist(), counts)})

    def _digest_of_present(self, modality: str) -> str:
        """Digest of which of the samples have a file for the modality."""
        rows = self.names.rows
        present = self._present[modality][rows] if modality in self._present else np.zeros(len(rows), bool)
        return hashlib.sha256(np.packbits(present).tobytes()).hexdigest()[:16]

    def anywhere(self, modality: str) -> bool:
        """Whether there is any file for a modality, in any split."""
        return modality in self._present and bool(self._present[modality].any())

    def exists(self, name: str, modality: str) -> bool:
        """Whether there is a file for the modality of a sample, in any split."""
        row = self.names.table.row(name) if modality in self._present else None
        return row is not None and bool(self._present[modality][row])

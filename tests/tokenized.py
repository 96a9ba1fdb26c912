"""What `fourm tokenize` wrote to a folder, by name, whatever the modalities and tokenizers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fourm_engine.data.tokens.indexing import open_index
from fourm_engine.data.tokens.shard_files import RecordedViews, ShardFiles


class Tokens:
    def __init__(self, folder: Path) -> None:
        self.index = open_index(folder)
        self.files = ShardFiles(self.index)
        self.views = RecordedViews(self.index, self.files)

    def names(self, modality: str | None = None) -> list[str]:
        """Samples that take part, or those that have a modality."""
        rows = np.setdiff1d(np.arange(len(self.index)), self.index.dropped)
        names = {row: self.index.names.name(row) for row in rows.tolist()}
        return [name for row, name in names.items() if modality is None or modality in self._has(row)]

    def _has(self, row: int) -> frozenset[str]:
        return self.index.modalities_in(int(self.index.present[row]))

    def fingerprints(self, modality: str) -> set[str]:
        return {way.fingerprint for way in self.index.made(modality)}

    def ids(self, modality: str, name: str, view: int = 0) -> np.ndarray:
        """int64 (tokens,). Raises KeyError for a sample that has none."""
        row = self.index.names.row(name)
        if row is None or modality not in self._has(row):
            raise KeyError(name)
        shard, at = self.index.locate(row)
        ids = self.files.get(self.index.parts.index(modality), shard).row("ids", at * self.index.views + view)
        return ids[ids >= 0].astype(np.int64)

    def all_ids(self, modality: str, name: str) -> list[list[int]]:
        return [self.ids(modality, name, view).tolist() for view in range(self.index.views)]

"""Selection: some rows of an index, with digests that detect other rows and changed content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from fourm_engine.data.names_table import ENCODING, Names
from fourm_engine.data.tokens.index import CONTENT, Index
from fourm_engine.data.tokens.shard_files import ShardFiles
from fourm_engine.data.tokens.shards import digest


class Selection:
    """Rows of `index`, ascending; None: all. Excludes dropped ones."""

    def __init__(self, index: Index, files: ShardFiles, rows: np.ndarray | None = None) -> None:
        self.index, self.files = index, files
        if len(index.dropped):
            rows = np.setdiff1d(np.arange(len(index)) if rows is None else rows, index.dropped, assume_unique=True)
        elif rows is not None and len(rows) == len(index):
            rows = None
        self.rows = rows

    def __len__(self) -> int:
        return len(self.index) if self.rows is None else len(self.rows)

    def row(self, position: int) -> int:
        """The row at a position. Raises IndexError."""
        if not 0 <= position < len(self):
            raise IndexError(f"row {position} of {len(self)}")
        return position if self.rows is None else int(self.rows[position])

    def holds(self, rows: np.ndarray) -> np.ndarray:
        """bool, for rows of the index; False for -1."""
        if self.rows is None or not len(self.rows):
            return (rows >= 0) & (len(self) > 0)
        at = np.searchsorted(self.rows, rows).clip(max=len(self.rows) - 1)
        return self.rows[at] == rows

    @property
    def names(self) -> Sequence[str]:
        return self.index.names if self.rows is None else Names(self.index.names, self.rows)

    @property
    def shard_sizes(self) -> np.ndarray:
        """int64 (shards,): selected rows of each shard of the index."""
        if self.rows is None:
            return np.diff(self.index.starts)
        return np.diff(np.searchsorted(self.rows, self.index.starts))

    def names_digest(self) -> str:
        """Identifies these samples, in this order."""
        total = hashlib.sha256()
        for shard, rows in self._shards():
            if rows is None:
                total.update(int(self.index.shards[shard, 2]).to_bytes(8, "little"))
            else:
                total.update("\0".join(self.index.names.name(int(row)) for row in rows).encode(*ENCODING))
        return total.hexdigest()[:16]

    def digest(self, part: int) -> str:
        """Identifies the content that a model sees of these samples in a part, an index into `index.parts`. For a shard
        that is selected completely, it is taken from the index."""
        total = hashlib.sha256()
        for shard, rows in self._shards():
            known = int(self.index.files[shard, part, CONTENT])
            if known and rows is not None:
                known = self._digest(part, shard, rows - int(self.index.starts[shard]))
            total.update(known.to_bytes(8, "little"))
        return total.hexdigest()[:16]

    def _digest(self, part: int, shard: int, rows: np.ndarray) -> int:
        file, samples = self.files.get(part, shard), int(self.index.shards[shard, 1])
        columns = ["digest"] if part else [f"digest.{group}" for group in self.index.groups]
        return digest(*(file.column(column, samples)[rows].tobytes() for column in columns))

    def _shards(self) -> Iterator[tuple[int, np.ndarray | None]]:
        """(shard, its selected rows; None: all) of each shard with any."""
        starts = self.index.starts
        bounds = starts if self.rows is None else np.searchsorted(self.rows, starts)
        for shard, (start, stop) in enumerate(zip(bounds[:-1].tolist(), bounds[1:].tolist())):
            if stop - start == starts[shard + 1] - starts[shard]:
                if stop > start:
                    yield shard, None
            elif stop > start:
                assert self.rows is not None
                yield shard, self.rows[start:stop]

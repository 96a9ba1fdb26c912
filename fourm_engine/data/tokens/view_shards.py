"""Recorded views: which samples a shard contains, and the crops and flips that their tokens were made through, so that
pixels read later match.

    names, name_offsets: the samples, in order; see `names_columns`
    kept: uint8 (samples,), 0 for a sample that was dropped (`fourm tokenize --prune`); its row is kept, so that the
        others stay in place
    views.<group>: float64 (samples, views, 6), rows of `View.to_row`
    digest.<group>: uint64 (samples,) of these rows
    stamp: uint64 (samples,) of the files that have views but no tokens

Metadata: the number of views, the alignment groups, and the settings that the views were drawn with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np

from fourm_engine.data.names_table import ENCODING
from fourm_engine.data.tokens.shards import ShardFile, damaged, digest, names_columns, save_shard
from fourm_engine.data.views import SampleViews
from fourm_engine.storage.location import Readable
from fourm_engine.storage.remote import Shard
from fourm_plugins.view import View


class ViewShard(ShardFile):
    """The views of the samples of one shard: `groups` and `views`, their number, drawn with `settings`."""

    def __init__(self, path: Readable, known: Shard | None = None) -> None:
        super().__init__(path, known)
        try:
            metadata = self.metadata
            self.settings, self.views = json.loads(metadata["settings"]), int(metadata["views"])
            self.groups: list[str] = json.loads(metadata["groups"])
            if self.views < 1 or not isinstance(self.settings, dict):
                raise ValueError("no views")
            if not (isinstance(self.groups, list) and all(isinstance(group, str) for group in self.groups)):
                raise ValueError("groups are no list of names")
        except (KeyError, ValueError, RecursionError) as error:
            raise damaged(path, error) from None

    @cached_property
    def names(self) -> list[str]:
        """Inverse of `names_columns`."""
        offsets = self.column("name_offsets", -1, dtype=np.int64)
        blob = self.column("names", -1, dtype=np.uint8).tobytes()
        if not len(offsets) or offsets[0] != 0 or offsets[-1] != len(blob) or (np.diff(offsets) < 0).any():
            raise damaged(self.path, "names")
        try:
            return [blob[start:end].decode(*ENCODING) for start, end in pairwise(offsets.tolist())]
        except UnicodeDecodeError as error:
            raise damaged(self.path, error) from None

    @cached_property
    def kept(self) -> np.ndarray:
        """bool (samples,): whether the sample is included."""
        return self.column("kept", len(self.names), dtype=np.uint8) != 0

    @property
    def dropped(self) -> frozenset[str]:
        return frozenset(name for name, kept in zip(self.names, self.kept.tolist()) if not kept)

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.names)}

    def get(self, name: str, number: int) -> SampleViews:
        return {group: self.view(group, self._rows[name], number) for group in self.groups}

    def view(self, group: str, row: int, number: int) -> View:
        """View `number` of a row."""
        table = self.row(f"views.{group}", row)
        if table.ndim != 2 or number >= len(table):
            raise damaged(self.path, f"views of {group}")
        return View.from_row(table[number])

    def digests_of(self, group: str) -> dict[str, int]:
        """Sample -> digest of its views in a group."""
        return dict(zip(self.names, self.digests(group).tolist()))

    def digests(self, group: str) -> np.ndarray:
        """uint64 (samples,), of the views in a group."""
        return self.column(f"digest.{group}", len(self.names))

    def damaged_rows(self) -> np.ndarray:
        """int64: rows whose views differ from those that were written."""
        bad = np.zeros(len(self.names), bool)
        for group in self.groups:
            rows = self.column(f"views.{group}", len(self.names), self.views, 6, dtype=np.float64)
            bad |= [digest(row.tobytes()) != known for row, known in zip(rows, self.digests(group).tolist())]
        return np.flatnonzero(bad)

    def stamps(self) -> list[int]:
        return self.column("stamp", len(self.names)).tolist()

    def names_digest(self, samples: int) -> int:
        """`names_digest` of the names, read from the columns."""
        offsets = self.column("name_offsets", samples + 1, dtype=np.int64)
        return digest(offsets.tobytes(), self.column("names", -1, dtype=np.uint8).tobytes())

    def content(self, samples: int) -> int:
        """A digest of the views."""
        parts: list[bytes | str] = [(self.column("kept", samples, dtype=np.uint8) != 0).tobytes()]
        for group in self.groups:
            parts += [group, self.column(f"digest.{group}", samples).tobytes()]
        return digest(*parts)


def write_views(
    path: Path,
    rows: Mapping[str, Sequence[SampleViews]],
    stamps: Sequence[int],
    *,
    dropped: frozenset[str] = frozenset(),
    groups: Sequence[str],
    settings: dict,
    views: int,
) -> None:
    """rows: sample -> its views, each with all `groups`. stamps: of its files without tokens."""
    columns: dict[str, np.ndarray] = names_columns(list(rows))
    columns["kept"] = np.array([name not in dropped for name in rows], np.uint8)
    columns["stamp"] = np.array(stamps, np.uint64)
    for group in groups:
        table = np.array([[view[group].to_row() for view in sample] for sample in rows.values()], np.float64)
        columns[f"views.{group}"] = table = table.reshape(len(rows), views, 6)
        columns[f"digest.{group}"] = np.array([digest(row.tobytes()) for row in table], np.uint64)
    metadata = {"views": str(views), "settings": json.dumps(settings), "groups": json.dumps(list(groups))}
    save_shard(path, columns, metadata)

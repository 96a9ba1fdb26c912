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
from pathlib import Path
from typing import Any

import numpy as np

from fourm_engine.data.tokens.shards import (
    VIEWS_FOLDER,
    column_of,
    damaged,
    digest,
    names_columns,
    names_of,
    open_shard,
    row_of,
    save_shard,
    shard_path,
)
from fourm_engine.data.views import SampleViews
from fourm_engine.storage.location import Readable
from fourm_plugins.view import View


class ViewShard:
    """The views of the samples of one shard, which is read here. Raises ValueError."""

    def __init__(self, folder: Path, number: int) -> None:
        self.path = shard_path(Path(folder) / VIEWS_FOLDER, number)
        self._file = open_shard(self.path)
        self.settings, self.views, self.groups = made_through(self.path, self._file.metadata())
        self.names = names_of(self.path, self._file)
        kept = column_of(self.path, self._file, "kept", (len(self.names),), np.uint8)
        #: bool (samples,): whether the sample is included.
        self.kept = kept != 0
        self.dropped = frozenset(name for name, kept in zip(self.names, self.kept.tolist()) if not kept)
        self._rows = {name: row for row, name in enumerate(self.names)}

    def get(self, name: str, number: int) -> SampleViews:
        row = self._rows[name]
        return {g: views_in(self.path, self._file, g, row, number) for g in self.groups}

    def digests_of(self, group: str) -> dict[str, int]:
        """Sample -> digest of its views in a group."""
        return dict(zip(self.names, self.digests(group).tolist()))

    def digests(self, group: str) -> np.ndarray:
        """uint64 (samples,), of the views in a group."""
        return column_of(self.path, self._file, f"digest.{group}", (len(self.names),))

    def damaged_rows(self) -> np.ndarray:
        """int64: rows whose views differ from those that were written."""
        bad = np.zeros(len(self.names), bool)
        for group in self.groups:
            shape = (len(self.names), self.views, 6)
            rows = column_of(self.path, self._file, f"views.{group}", shape, np.float64)
            bad |= [digest(row.tobytes()) != known for row, known in zip(rows, self.digests(group).tolist())]
        return np.flatnonzero(bad)

    def stamps(self) -> list[int]:
        return column_of(self.path, self._file, "stamp", (len(self.names),)).tolist()

    def content(self) -> int:
        return views_content(self.path, self._file, len(self.names))


def views_in(path: Readable, file: Any, group: str, row: int, number: int) -> View:
    """View `number` of a row of an open shard. Raises ValueError."""
    table = row_of(path, file, f"views.{group}", row)
    if table.ndim != 2 or number >= len(table):
        raise damaged(path, f"views of {group}")
    return View.from_row(table[number])


def views_content(path: Readable, file: Any, samples: int) -> int:
    """A digest of the views of an open shard. Raises ValueError."""
    parts: list[bytes | str] = [(column_of(path, file, "kept", (samples,), np.uint8) != 0).tobytes()]
    for group in made_through(path, file.metadata())[2]:
        parts += [group, column_of(path, file, f"digest.{group}", (samples,)).tobytes()]
    return digest(*parts)


def made_through(path: Readable, metadata: Mapping[str, str]) -> tuple[dict, int, list[str]]:
    """(settings, number of views, groups) of a shard. Raises ValueError."""
    try:
        settings, views, groups = json.loads(metadata["settings"]), int(metadata["views"]), metadata["groups"]
        parsed = json.loads(groups)
        if views < 1 or not isinstance(settings, dict):
            raise ValueError("no views")
        if not (isinstance(parsed, list) and all(isinstance(group, str) for group in parsed)):
            raise ValueError("groups are no list of names")
    except (KeyError, ValueError, RecursionError) as error:
        raise damaged(path, error) from None
    return settings, views, parsed


def write_views(
    folder: Path,
    number: int,
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
    save_shard(shard_path(Path(folder) / VIEWS_FOLDER, number), columns, metadata)

"""Recorded views: the crops and flips that tokens were made through, so that pixels read later show the same.

    views.<group>: float64 (samples, views, 6), rows of `View.to_row`
    digest.<group>: uint64 (samples,) of these rows
    stamp: uint64 (samples,) of the files that have views but no tokens

Metadata: the alignment groups, and the settings by which their views were drawn.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fourm_engine.data.shards import (
    VIEWS_FOLDER,
    Shards,
    column_of,
    digest,
    save_shard,
    shard_path,
    some_shard_paths,
    strings_of,
)
from fourm_engine.data.views import SampleViews
from fourm_plugins.view import View


class RecordedViews(Shards):
    """The views of the samples in `folder`; of one shard, where `index` is given. Raises ValueError."""

    def __init__(self, folder: Path, index: int | None = None) -> None:
        folder = Path(folder) / VIEWS_FOLDER
        super().__init__(some_shard_paths(folder) if index is None else [shard_path(folder, index)])
        groups = (set(strings_of(path, metadata, "groups")) for path, metadata in zip(self.paths, self.metadata))
        #: Alignment groups that every shard has views of.
        self.groups: list[str] = sorted(set.intersection(*groups))

    def get(self, name: str, number: int) -> SampleViews:
        shard, row = self._rows[name]
        return {group: View.from_row(self._slice(shard, f"views.{group}", row)[number]) for group in self.groups}

    def digests(self, group: str) -> dict[str, int]:
        """Sample -> digest of its views in a group."""
        return self.column(f"digest.{group}")

    def damaged_views(self) -> list[Path]:
        """Shards whose rows are not those that their digests were made of."""
        damaged = []
        for shard, path in enumerate(self.paths):
            file = self._file(shard)
            for group in self.groups:
                rows = file.get_tensor(f"views.{group}")
                made = column_of(path, file, f"digest.{group}", len(self.shards[shard]))
                if len(rows) != len(made) or any(digest(row.tobytes()) != d for row, d in zip(rows, made.tolist())):
                    damaged.append(path)
                    break
        return damaged

    def identity(self, names: Sequence[str]) -> dict[str, Any]:
        """Says through which views the tokens of these samples were made: equal where the views are."""
        total = hashlib.sha256()
        for group in self.groups:
            digests = self.digests(group)
            total.update(json.dumps([group, [(name, digests[name]) for name in names]]).encode())
        return {"views": total.hexdigest()[:16]}


def write_views(
    folder: Path,
    index: int,
    rows: Mapping[str, Sequence[SampleViews]],
    stamps: Sequence[int],
    *,
    groups: Sequence[str],
    settings: dict,
    views: int,
) -> None:
    """rows: sample -> its views, each with all `groups`. stamps: of its files that have no tokens."""
    columns: dict[str, np.ndarray] = {"stamp": np.array(stamps, np.uint64)}
    for group in groups:
        table = np.array([[view[group].to_row() for view in sample] for sample in rows.values()], np.float64)
        columns[f"views.{group}"] = table = table.reshape(len(rows), views, 6)
        columns[f"digest.{group}"] = np.array([digest(row.tobytes()) for row in table], np.uint64)
    metadata = {
        "names": json.dumps(list(rows)),
        "views": str(views),
        "settings": json.dumps(settings),
        "groups": json.dumps(list(groups)),
    }
    save_shard(shard_path(Path(folder) / VIEWS_FOLDER, index), columns, metadata)

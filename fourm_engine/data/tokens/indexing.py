"""Builds the index of a folder of token shards: by `fourm tokenize`, or by any process that opens tokens that have
changed since. Files of unchanged size and time are taken from the old index.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from fourm_engine.data.columns import DamagedColumn
from fourm_engine.data.names_table import NameTable
from fourm_engine.data.tokens.folder_scan import Files, file_stamps, scan, scan_part
from fourm_engine.data.tokens.index import (
    BYTES,
    CONTENT,
    FIELDS,
    INDEX_FOLDER,
    MAKING,
    MAX_MODALITIES,
    OUTDATED,
    TIME,
    Index,
    count_masks,
    mask_type,
)
from fourm_engine.data.tokens.shards import VIEWS_FOLDER, digest, missing, names_digest, shard_path
from fourm_engine.data.tokens.token_shards import Making, TokenShard
from fourm_engine.data.tokens.view_shards import ViewShard
from fourm_engine.files import remove_leftovers
from fourm_engine.lock import one_at_a_time
from fourm_engine.storage.location import Location, Readable
from fourm_plugins.counting import counted
from fourm_plugins.notes import ALONE

log = logging.getLogger(__name__)
_LOCK = ".fourm-index"


def has_tokens(folder: Readable) -> bool:
    """Whether `folder` contains tokens; for a remote folder, their index."""
    if isinstance(folder, Location):
        return (folder / INDEX_FOLDER / "index.json").exists()
    return bool(scan_part(Path(folder) / VIEWS_FOLDER))


def open_index(folder: Readable, *, write: bool = True) -> Index:
    """The index of the tokens in `folder`, for the current files. A missing or outdated one is rebuilt, by one process,
    and stored if `write` is set and the folder is writable.

    Raises ValueError for damaged files, for shards whose samples differ from those of their views, for a sample in two
    shards, and for differing numbers of views."""
    if isinstance(folder, Location):  # its index is trusted
        index = Index.load(folder)
        assert index is not None
        return index
    folder = Path(folder)
    shared = write and os.access(folder, os.W_OK)
    index, files = Index.load(folder, quiet=shared), scan(folder)
    if write:
        _tell_removed(folder, files, set().union(*files.values()))
    if index is not None and _same_files(index, files):
        return index
    if not shared:
        return build(folder, files, index)
    try:
        with one_at_a_time(folder / _LOCK):
            remove_leftovers(folder, lambda path: path == INDEX_FOLDER, deep=False)
            index, files = Index.load(folder, alone=True), scan(folder)
            if index is not None and _same_files(index, files):
                return index
            if index is not None:
                before = set(index.shards[:, 0].tolist()).difference(*files.values())
                _tell_removed(folder, files, before, extra=ALONE)
            return build(folder, files, index, extra=ALONE).save()
    except OSError as error:
        log.warning("%s; each process makes an index of its own in memory", error)
        return build(folder, files, index)


def _same_files(index: Index, files: Files) -> bool:
    """Whether an index describes exactly these files."""
    if sorted(files) != sorted(index.parts) or sorted(files[VIEWS_FOLDER]) != index.shards[:, 0].tolist():
        return False
    return np.array_equal(index.files[:, :, : TIME + 1], file_stamps(files, index.parts))


def _tell_removed(folder: Path, files: Files, known: Iterable[int], **options: Any) -> None:
    """Warn of shards that were removed from the end. Those that leave a gap are in `Index.missing`."""
    last = max(files[VIEWS_FOLDER])
    if removed := sorted(number for number in known if number > last):
        what = missing(folder, VIEWS_FOLDER, removed[0], len(removed))
        log.warning("%s; run `fourm tokenize` again", what, **options)


def build(folder: Path, files: Files, old: Index | None = None, **options: Any) -> Index:
    """Build the index of the existing files. `options`: for logging a damaged `old` one. Raises ValueError; see
    `open_index`."""
    try:
        return _Builder(folder, files, old).index()
    except DamagedColumn as damage:  # of the old one
        log.warning("%s; made anew from the shards", str(damage).partition("; ")[0], **options)
        return _Builder(folder, files, None).index()


def _small(column: np.ndarray) -> np.ndarray:
    """As uint32, half the size, if the numbers fit."""
    return column.astype(np.uint32 if column.max(initial=0) < 1 << 32 else np.int64)


class _Builder:
    def __init__(self, folder: Path, files: Files, old: Index | None) -> None:
        self.folder, self.old = folder, old
        self.numbers = sorted(files[VIEWS_FOLDER])
        self.modalities = sorted(files.keys() - {VIEWS_FOLDER})
        if len(self.modalities) > MAX_MODALITIES:
            raise ValueError(f"{folder}: tokens of {len(self.modalities)} modalities; {MAX_MODALITIES} are the most")
        self.parts = [VIEWS_FOLDER, *self.modalities]
        self.stamps = file_stamps(files, self.parts)
        self.making: dict[str, dict[Making, int]] = {name: {} for name in self.modalities}
        self.files = np.zeros((len(self.numbers), len(self.parts), len(FIELDS)), np.uint64)
        self.files[:, :, : TIME + 1] = self.stamps
        self.shards = np.zeros((len(self.numbers), 3), np.uint64)
        self.present: list[np.ndarray] = []
        self.dropped: list[np.ndarray] = []
        self.offsets, self.blobs = [np.zeros(1, np.int64)], list[np.ndarray]()  # of the names
        self.hashes: list[np.ndarray] = []
        self.rows = self.characters = 0
        self.facts: tuple[dict, int] | None = None  # settings and number of views
        self.groups: dict[tuple[str, ...], int] = {}
        if old is not None:
            self.before = {int(number): shard for shard, number in enumerate(old.shards[:, 0])}
            # By row: the columns of a table are sorted by hash.
            self.old_hashes = np.empty(len(old), np.uint64)
            self.old_hashes[np.asarray(old.names.order)] = old.names.hashes
            self.old_part = {part: number for number, part in enumerate(old.parts)}

    def index(self) -> Index:
        for shard, number in enumerate(self.numbers):
            self._add(shard, number)
        hashes = np.concatenate(self.hashes)
        order = _small(np.argsort(hashes, kind="stable"))
        names = NameTable(_small(np.concatenate(self.offsets)), np.concatenate(self.blobs), hashes[order], order)
        self._check_unique(names)
        present = np.concatenate(self.present)
        dropped = np.concatenate(self.dropped)
        kinds = count_masks(present)
        for mask, count in count_masks(present[dropped]).items():
            kinds[mask] -= count
        assert self.facts is not None
        settings, views = self.facts
        return Index(
            self.folder,
            views,
            settings,
            list(map(list, self.groups)),
            self.modalities,
            {name: list(made) for name, made in self.making.items()},
            self.shards,
            self.files,
            present,
            dropped,
            names,
            {mask: count for mask, count in kinds.items() if count},
        )

    def _add(self, shard: int, number: int) -> None:
        """Add one shard: its names, its views, then each modality."""
        same = self._unchanged(shard, number)
        if VIEWS_FOLDER in same:
            samples = self._keep_views(shard, self.before[number])
            views = None
        else:
            views = ViewShard(shard_path(self.folder / VIEWS_FOLDER, number))
            samples = self._read_views(shard, number, views)
        mask = np.zeros(samples, mask_type(len(self.modalities)))
        for bit, modality in enumerate(self.modalities):
            if self.stamps[shard, bit + 1, BYTES] == 0:
                continue
            if modality in same:
                there = self._keep_tokens(shard, bit + 1, modality, self.before[number])
            else:
                views = views or ViewShard(shard_path(self.folder / VIEWS_FOLDER, number))
                there = self._read_tokens(shard, bit + 1, modality, number, views)
            mask |= there.astype(mask.dtype) << mask.dtype.type(bit)
        self.present.append(mask)
        self.rows += samples

    def _unchanged(self, shard: int, number: int) -> set[str]:
        """The parts of a shard that equal those in the old index; none if its views differ."""
        if self.old is None or (before := self.before.get(number)) is None:
            return set()
        same = {
            part
            for position, part in enumerate(self.parts)
            if part in self.old_part
            and (self.old.files[before, self.old_part[part], : TIME + 1] == self.stamps[shard, position]).all()
        }
        return same if VIEWS_FOLDER in same else set()

    def _keep_views(self, shard: int, before: int) -> int:
        assert self.old is not None
        rows = self.old.rows_of(before)
        offsets = self.old.names.offsets[rows.start : rows.stop + 1].astype(np.int64)
        blob = self.old.names.blob[int(offsets[0]) : int(offsets[-1])]
        self._add_names(offsets - offsets[0], blob, self.old_hashes[rows])
        start, stop = np.searchsorted(self.old.dropped, [rows.start, rows.stop])
        self.dropped.append(self.old.dropped[start:stop] - rows.start + self.rows)
        self.shards[shard] = self.old.shards[before]
        self.files[shard, 0] = self.old.files[before, 0]
        self.files[shard, 0, MAKING] = self._group(self.old.shard_groups[int(self.old.files[before, 0, MAKING])])
        self._agree(self.old.settings, self.old.views, self.folder)
        return rows.stop - rows.start

    def _read_views(self, shard: int, number: int, views: ViewShard) -> int:
        table = NameTable.build(views.names)
        hashes = np.empty(len(table), np.uint64)
        hashes[table.order] = table.hashes
        self._add_names(np.asarray(table.offsets), np.asarray(table.blob), hashes)
        self.dropped.append(np.flatnonzero(~views.kept) + self.rows)
        self.shards[shard] = number, len(views.names), names_digest(views.names)
        self.files[shard, 0, CONTENT] = views.content(len(views.names))
        self.files[shard, 0, MAKING] = self._group(views.groups)
        self._agree(views.settings, views.views, views.path)
        return len(views.names)

    def _add_names(self, offsets: np.ndarray, blob: np.ndarray, hashes: np.ndarray) -> None:
        self.offsets.append(offsets[1:] + self.characters)
        self.characters += len(blob)
        self.blobs.append(blob)
        self.hashes.append(hashes)

    def _agree(self, settings: dict, views: int, path: Readable) -> None:
        if self.facts is None:
            self.facts = settings, views
        if self.facts != (settings, views):
            raise ValueError(
                f"{path}: {counted(views, 'view')} drawn with {settings}, but those of other shards are "
                f"{self.facts[1]} drawn with {self.facts[0]}; remove {self.folder} and tokenize again"
            )

    def _keep_tokens(self, shard: int, part: int, modality: str, before: int) -> np.ndarray:
        assert self.old is not None
        fields = self.old.files[before, self.old_part[modality]]
        self.files[shard, part] = fields
        self.files[shard, part, MAKING] = self._way(modality, self.old.making[modality][int(fields[MAKING])])
        return self.old.has(modality, self.old.rows_of(before))

    def _read_tokens(self, shard: int, part: int, modality: str, number: int, views: ViewShard) -> np.ndarray:
        path = shard_path(self.folder / modality, number)
        tokens = TokenShard(path, len(views.names), int(self.shards[shard, 2]))
        digests = tokens.numbers("digest")
        there, group = digests != 0, tokens.making.alignment
        # Made before the settings of views included its group, or without any views.
        seen = views.digests(group) if group in views.groups else np.zeros_like(digests)
        self.files[shard, part, CONTENT] = digest(digests.tobytes())
        self.files[shard, part, MAKING] = self._way(modality, tokens.making)
        self.files[shard, part, OUTDATED] = int((there & (tokens.numbers("view") != seen)).sum())
        return there

    def _way(self, modality: str, made: Making) -> int:
        return self.making[modality].setdefault(made, len(self.making[modality]))

    def _group(self, groups: list[str]) -> int:
        return self.groups.setdefault(tuple(groups), len(self.groups))

    def _check_unique(self, names: NameTable) -> None:
        same = np.flatnonzero(names.hashes[1:] == names.hashes[:-1])
        starts = np.cumsum(self.shards[:, 1], dtype=np.int64)
        for at in same.tolist():
            first, second = (int(names.order[at]), int(names.order[at + 1]))
            if names.name(first) == names.name(second):
                paths = [
                    shard_path(self.folder / VIEWS_FOLDER, self.numbers[int(np.searchsorted(starts, row, "right"))])
                    for row in (first, second)
                ]
                remedy = "remove the second and run `fourm tokenize` again"
                raise ValueError(f"sample {names.name(first)!r} is in both {paths[0]} and {paths[1]}; {remedy}")

"""Index: the contents of a folder of token shards, in columns that all processes map from one file each.

    <folder>/_index/index.json      modalities, how their tokens were made, samples of each kind
    <folder>/_index/shards.npy      uint64: number, samples and digest of the names of each shard
    <folder>/_index/files.npy       uint64: what is known of each file, `FIELDS` of every part of every shard
    <folder>/_index/present.npy     a bit mask a sample: bit m for modality m; 8, 16, 32 or 64 bits
    <folder>/_index/dropped.npy     int64: rows of samples that take no part
    <folder>/_index/names.*.npy     see `NameTable`

Row r is the same sample in every modality; the rows of a shard are contiguous. The index is derived from the shards
(see `fourm_engine.data.tokens.indexing`): it may be deleted, and is then rebuilt. `index.json` has a checksum of itself
and of each block of each column (see `columns`); the index's entry for a shard is verified when the shard is opened.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fourm_engine.data.columns import (
    Entries,
    OtherVersion,
    checksums,
    map_column,
    open_column,
    save_column,
    sealed,
    unsealed,
)
from fourm_engine.data.names_table import NameTable
from fourm_engine.data.tokens.shards import VIEWS_FOLDER, digest, shard_name
from fourm_engine.data.tokens.token_shards import Making
from fourm_engine.files import check_shortage, replacing_folder, write_atomically
from fourm_engine.storage.errors import Missing, StoreError
from fourm_engine.storage.location import Location, Readable, content_of
from fourm_plugins.notes import ALONE

log = logging.getLogger(__name__)
INDEX_FOLDER = "_index"
FORMAT = 3
#: Of a file: its size and time; a digest of the content that a model sees; how it was made, an index into `making` or
#: `shard_groups`; number of samples whose tokens were made through other views than the recorded ones. All 0 for a
#: missing file.
FIELDS = BYTES, TIME, CONTENT, MAKING, OUTDATED = range(5)
MAX_MODALITIES = 64
#: Maximum size of index.json.
MAX_BYTES = 1 << 28


def mask_type(modalities: int) -> np.dtype:
    """The dtype of a mask with a bit for each modality."""
    return np.dtype(next(f"uint{bits}" for bits in (8, 16, 32, 64) if modalities <= bits))


@dataclass(eq=False)
class Index:
    """The contents of the shards in `folder`. Arrays may be memory maps and are read-only."""

    folder: Readable
    #: Number of views per sample.
    views: int
    #: The settings that the views were drawn with.
    settings: dict[str, Any]
    #: Distinct sets of alignment groups that shards have views of.
    shard_groups: list[list[str]]
    modalities: list[str]
    #: Modality -> the distinct ways in which its shards were made.
    making: dict[str, list[Making]]
    #: uint64 (shards, 3): the number of each shard, ascending, its samples, and a digest of their names.
    shards: np.ndarray
    #: uint64 (shards, 1 + modalities, FIELDS): of views, then of each modality.
    files: np.ndarray
    #: (samples,) bit masks.
    present: Entries
    #: int64, ascending.
    dropped: np.ndarray
    names: NameTable
    #: Mask -> number of included samples with it.
    kinds: dict[int, int]
    #: int64 (shards + 1,): the first row of each shard, and the number of rows.
    starts: np.ndarray = field(init=False)
    _saved: bool = False

    def __post_init__(self) -> None:
        self.starts = np.concatenate([[0], np.cumsum(self.shards[:, 1], dtype=np.int64)])
        if not (
            len(self.present) == len(self.names) == self.starts[-1]
            and self.files.shape == (len(self.shards), 1 + len(self.modalities), len(FIELDS))
            and (np.diff(self.starts) >= 0).all()
            and self.views > 0
            and self.present.dtype == mask_type(len(self.modalities))
            and self.making.keys() == set(self.modalities)
            and all((self.files[:, part, MAKING] < ways).all() for part, ways in enumerate(self._ways()))
            and (len(self.dropped) == 0 or 0 <= self.dropped[0] <= self.dropped[-1] < len(self.present))
        ):
            raise ValueError(f"{self.folder / INDEX_FOLDER}: columns that do not belong together")

    def _ways(self) -> list[int]:
        """Number of distinct ways in which the shards of each part were made; a missing file counts as the first."""
        return [len(self.shard_groups), *(max(1, len(self.making[name])) for name in self.modalities)]

    def __len__(self) -> int:
        """Number of rows, including those of dropped samples."""
        return len(self.present)

    @property
    def groups(self) -> list[str]:
        """Alignment groups that every shard has views of."""
        ways = [set(self.shard_groups[int(way)]) for way in np.unique(self.files[:, 0, MAKING])]
        return sorted(set.intersection(*ways))

    @property
    def parts(self) -> list[str]:
        """The folders of the shards: views, then each modality."""
        return [VIEWS_FOLDER, *self.modalities]

    def locate(self, row: int) -> tuple[int, int]:
        """(position of the shard, row in it)."""
        shard = int(np.searchsorted(self.starts, row, side="right")) - 1
        return shard, row - int(self.starts[shard])

    def path(self, part: int, shard: int) -> Readable:
        return self.folder / self.below(part, shard)

    def below(self, part: int, shard: int) -> str:
        """The path of a file below the folder."""
        return f"{self.parts[part]}/{shard_name(int(self.shards[shard, 0]))}"

    def rows_of(self, shard: int) -> slice:
        return slice(int(self.starts[shard]), int(self.starts[shard + 1]))

    def holding(self, modality: str) -> np.ndarray:
        """int64: indices of the shards that have a file of a modality."""
        return np.flatnonzero(self.files[:, self.parts.index(modality), BYTES])

    def missing(self) -> dict[str, tuple[int, int]]:
        """Part -> (the first shard without a file of it, number of such shards): for views, gaps in the numbers, which
        `fourm tokenize` would have filled; for a modality, shards that have views."""
        numbers, lacking = self.shards[:, 0], dict[str, tuple[int, int]]()
        if gaps := (int(numbers[-1]) + 1 if len(numbers) else 0) - len(numbers):
            lacking[VIEWS_FOLDER] = int(np.flatnonzero(numbers != np.arange(len(numbers), dtype=np.uint64))[0]), gaps
        for part, name in enumerate(self.modalities, start=1):
            if len(without := numbers[self.files[:, part, BYTES] == 0]):
                lacking[name] = int(without[0]), len(without)
        return lacking

    def has(self, modality: str, rows: slice | np.ndarray) -> np.ndarray:
        """bool, which of some rows have tokens of a modality."""
        kind = self.present.dtype.type
        return self.present[rows] >> kind(self.modalities.index(modality)) & kind(1) != 0

    def made(self, modality: str) -> dict[Making, Readable]:
        """The ways in which the tokens of a modality were made -> the first shard of each."""
        if modality not in self.modalities:
            return {}
        part, shards = self.parts.index(modality), self.holding(modality)
        ways, first = np.unique(self.files[shards, part, MAKING], return_index=True)
        return {self.making[modality][int(w)]: self.path(part, int(shards[f])) for w, f in zip(ways, first)}

    def count_kinds(self, rows: np.ndarray | None = None) -> Counter[frozenset[str]]:
        """Set of modalities -> number of samples with exactly these, among the given rows or all that are included."""
        kinds = self.kinds if rows is None else count_masks(self.present[rows])
        return Counter({self.modalities_in(mask): count for mask, count in kinds.items()})

    def modalities_in(self, mask: int) -> frozenset[str]:
        return frozenset(name for bit, name in enumerate(self.modalities) if mask >> bit & 1)

    @property
    def key(self) -> int:
        """Identifies the files that this index describes."""
        return digest(np.ascontiguousarray(self.shards).tobytes(), np.ascontiguousarray(self.files).tobytes())

    def check(self) -> None:
        """Verify all checksums. Raises DamagedColumn."""
        for column in (self.present, *self.names.arrays().values()):
            np.asarray(column)

    def save(self) -> Index:
        """Write the index atomically; returns it as `load` does. Raises CannotWrite."""
        assert isinstance(self.folder, Path)
        with replacing_folder(self.folder / INDEX_FOLDER) as folder:
            columns: dict[str, Entries] = {"present": self.present, "dropped": self.dropped}
            columns |= {"shards": self.shards.ravel(), "files": self.files.ravel()}
            columns |= {f"names.{column}": array for column, array in self.names.arrays().items()}
            for name, column in columns.items():
                save_column(folder / f"{name}.npy", column)
            facts = {
                "format": FORMAT,
                "columns": {name: checksums(column) for name, column in columns.items()},
                "views": self.views,
                "settings": self.settings,
                "groups": self.shard_groups,
                "modalities": self.modalities,
                "making": {name: list(map(asdict, made)) for name, made in self.making.items()},
                "kinds": sorted(self.kinds.items()),
            }
            write_atomically(folder / "index.json", sealed(facts))
        loaded = Index.load(self.folder)
        assert loaded is not None
        return loaded

    @classmethod
    def load(cls, folder: Readable, *, quiet: bool = False, alone: bool = False) -> Index | None:
        """The index stored in a folder of tokens; None if there is none, or if it is damaged or of another version,
        which is logged. Remote tokens must have one: raises ValueError otherwise.

        quiet: do not log; alone: no other process logs it."""
        if isinstance(folder, Location):
            return cls._load_remote(folder)
        stored, extra = Path(folder) / INDEX_FOLDER, ALONE if alone else {}
        for _ in range(10):  # another process may be replacing it
            before = _inode(stored)
            try:
                index, damage = cls._load(Path(folder), stored), None
            except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                check_shortage(error)
                index, damage = None, error
            if _inode(stored) == before:
                if isinstance(damage, OtherVersion) and not quiet:
                    log.info("%s: %s, made anew from the shards", stored, damage, extra=extra)
                elif damage is not None and before and not quiet:
                    log.warning("%s: damaged (%.100s); made anew from the shards", stored, damage, extra=extra)
                return index
        return None

    @classmethod
    def _load_remote(cls, folder: Location) -> Index:
        try:
            return cls._load(folder, folder / INDEX_FOLDER)
        except Missing as error:
            raise Missing(f"{error}; `fourm tokenize` writes it: upload all that is in the folder of tokens") from None
        except StoreError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            check_shortage(error)
            why = str(error) if isinstance(error, OtherVersion) else f"damaged ({error!s:.80})"
            remedy = "run `fourm tokenize` on the local tokens, upload them again"
            raise ValueError(f"{folder / INDEX_FOLDER}: {why}; {remedy}") from None

    @classmethod
    def _load(cls, folder: Readable, stored: Readable) -> Index:
        facts = unsealed(content_of(stored / "index.json", MAX_BYTES), FORMAT)
        checks = {str(name): list(map(int, sums)) for name, sums in facts["columns"].items()}

        def column(name: str, kind: str) -> np.ndarray:
            return open_column(stored / f"{name}.npy", kind, checks=checks[name])

        modalities = [str(name) for name in facts["modalities"]]
        index = cls(
            folder,
            int(facts["views"]),
            dict(facts["settings"]),
            [[str(group) for group in groups] for groups in facts["groups"]],
            modalities,
            {name: [Making(**made) for made in facts["making"][name]] for name in modalities},
            column("shards", "u").reshape(-1, 3),
            column("files", "u").reshape(-1, 1 + len(modalities), len(FIELDS)),
            map_column(stored / "present.npy", "u", checks=checks["present"]),
            column("dropped", "i"),
            NameTable.open(stored, checks=checks),
            {int(mask): int(count) for mask, count in facts["kinds"]},
        )
        index._saved = True
        return index

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process maps the same files instead of receiving a copy.
        if self._saved:
            return _again, (self.folder, self.key)
        fields = (self.folder, self.views, self.settings, self.shard_groups, self.modalities, self.making, self.shards)
        return Index, (*fields, self.files, self.present, self.dropped, self.names, self.kinds)


def _again(folder: Readable, key: int) -> Index:
    index = Index.load(folder)
    if index is None or index.key != key:
        raise ValueError(f"{folder}: tokens were added or changed while they were in use; start again")
    return index


def _inode(path: Path) -> int:
    """Of a folder; 0 where there is none."""
    try:
        return os.stat(path).st_ino
    except OSError:
        return 0


def count_masks(masks: Entries) -> dict[int, int]:
    """Mask -> number of occurrences."""
    counts: Counter[int] = Counter()
    for start in range(0, len(masks), 1 << 22):  # limits the size of each sort
        values, numbers = np.unique(masks[start : start + (1 << 22)], return_counts=True)
        counts.update(dict(zip(values.tolist(), numbers.tolist())))
    return dict(counts)

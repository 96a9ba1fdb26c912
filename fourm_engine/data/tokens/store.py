"""TokenStore: the token shards of all modalities in a folder, checked against the tokenizers and settings of a run."""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fourm_engine.data.store import Store
from fourm_engine.data.tokens.index import OUTDATED
from fourm_engine.data.tokens.indexing import open_index
from fourm_engine.data.tokens.selection import Selection
from fourm_engine.data.tokens.shard_files import RecordedViews, ShardFiles
from fourm_engine.data.tokens.shards import VIEWS_FOLDER, missing, unusable
from fourm_engine.storage.location import Readable
from fourm_plugins.counting import counted
from fourm_plugins.modality import Modality
from fourm_plugins.tokenizer import Tokenizer

log = logging.getLogger(__name__)
#: Number of shards of a modality that are opened to compare its files.
_SHARDS_SEEN = 50


class TokenStore(Store):
    """The output of `fourm tokenize` in `folder`: rows in the order of its index, shard after shard.

    `recorded` has the views of all samples, `parts` the modalities that have tokens.

    Raises ValueError if tokens were made by another tokenizer, with other settings, or through other views than
    recorded, or if no file of a modality could be tokenized."""

    def __init__(
        self, folder: Readable, modalities: Mapping[str, Modality], tokenizers: Mapping[str, Tokenizer]
    ) -> None:
        self.folder, self.index = folder, open_index(folder)
        self.files = ShardFiles(self.index)
        self.recorded = RecordedViews(self.index, self.files)
        self.views = self.index.views
        #: Modality -> (its index in `index.parts`, upper bound of its ids).
        self.parts: dict[str, tuple[int, int]] = {}
        for name, modality in modalities.items():
            spec = modality.spec
            if not spec.continuous and name in self.index.modalities:
                assert spec.token_space is not None
                self.parts[name] = self.index.parts.index(name), spec.token_space.size
                self._check(modality, tokenizers.get(name))
            elif spec.alignment is not None and spec.alignment not in self.index.groups:
                raise ValueError(f"{folder}: no views of group {spec.alignment!r} ({name}); run `fourm tokenize` again")
        for part, (first, shards) in self.index.missing().items():
            if part in self.parts or part == VIEWS_FOLDER:
                log.warning("%s; run `fourm tokenize` again", missing(folder, part, first, shards))
        self._kinds: dict[int, frozenset[str]] = {}  # of a mask
        self._take(None)
        there = frozenset().union(*map(self.index.modalities_in, self.index.kinds))
        if empty := ", ".join(name for name in self.parts if name not in there):
            remedy = f"fix them and run `fourm tokenize` again, or leave {empty} out of modalities.select"
            raise ValueError(f"no tokens of {empty}: none of the files could be used when they were made; {remedy}")

    def _check(self, modality: Modality, tokenizer: Tokenizer | None) -> None:
        name, folder, index = modality.name, self.folder / modality.name, self.index
        made = index.made(name)
        for way, path in made.items():
            way.check(modality, path, tokenizer)
            if way.views != index.views:
                what = f"{counted(way.views, 'view')} a sample, not the {index.views} of {VIEWS_FOLDER}"
                raise ValueError(f"{path}: {what}; remove {folder} and run `fourm tokenize` again")
        if len(fingerprints := sorted({way.fingerprint for way in made})) > 1:
            raise ValueError(f"{folder}: shards of several tokenizers, {', '.join(fingerprints)}; tokenize again")
        part, _ = self.parts[name]
        if (outdated := index.files[:, part, OUTDATED]).any():
            first = index.path(part, int(outdated.argmax())).name
            some = f"{counted(int(outdated.sum()), 'sample')}, the first in {first}"
            what = f"made through other views than those in {VIEWS_FOLDER}"
            raise ValueError(f"{folder}: {some}, {what}; run `fourm tokenize` again")

    def selecting(self, rows: np.ndarray | None) -> TokenStore:
        """The same tokens restricted to these rows of the index, ascending; None: all."""
        other = copy.copy(self)
        other._take(rows)
        return other

    def _take(self, rows: np.ndarray | None) -> None:
        self.selection = Selection(self.index, self.files, rows)
        self.names = self.selection.names

    @property
    def shard_sizes(self) -> np.ndarray:
        return self.selection.shard_sizes

    def has(self, row: int) -> frozenset[str]:
        mask = int(self.index.present[self.selection.row(row)])
        if mask not in self._kinds:
            self._kinds[mask] = self.index.modalities_in(mask) & frozenset(self.parts)
        return self._kinds[mask]

    def kinds(self) -> Counter[frozenset[str]]:
        kinds: Counter[frozenset[str]] = Counter()
        for modalities, samples in self.index.count_kinds(self.selection.rows).items():
            kinds[modalities & frozenset(self.parts)] += samples
        return kinds

    def load(self, row: int, modality: str, view: int = 0) -> np.ndarray:
        part, size = self.parts[modality]
        shard, at = self.index.locate(self.selection.row(row))
        ids = self.files.get(part, shard).row("ids", at * self.views + view)
        if ids.ndim != 1 or ids.dtype != np.int32 or ids.max(initial=-1) >= size:
            raise unusable(self.index.path(part, shard), f"sample {self.names[row]!r} holds no ids below {size}")
        return ids[ids >= 0].astype(np.int64)

    def ahead(self, rows: Sequence[int], *, now: bool = False, views: bool = False) -> None:
        """`views`: whether the views will be needed, too."""
        shards = dict.fromkeys(self.index.locate(self.selection.row(row))[0] for row in rows)
        parts = [*([0] if views else []), *(part for part, _ in self.parts.values())]
        self.files.ahead(parts, list(shards), now=now)

    def stamps(self, modality: str, number: int) -> Iterator[tuple[str, int]]:
        """(sample, stamp of the files that its tokens were made from), for up to about `number` samples that have the
        modality, from a few shards if there are more. Raises ValueError."""
        part, (index, chosen) = self.parts[modality][0], (self.index, self.selection)
        shards = index.holding(modality)
        if len(self) > number:
            shards = shards[:: max(1, len(shards) // _SHARDS_SEEN)]
        each = max(1, number // max(1, len(shards)))
        for shard in shards.tolist():
            rows = np.arange(index.starts[shard], index.starts[shard + 1])
            rows = rows[chosen.holds(rows) & index.has(modality, rows)]
            if len(self) > number:
                rows = rows[:: -(-len(rows) // each)] if len(rows) else rows
            stamps = self.files.get(part, shard).column("stamp", int(index.shards[shard, 1]))
            for row in rows.tolist():
                yield index.names.name(row), int(stamps[row - int(index.starts[shard])])

    def identity(self) -> dict[str, Any]:
        chosen = self.selection
        content = {name: chosen.digest(part) for name, (part, _) in sorted(self.parts.items())}
        return {"names": chosen.names_digest(), "views": chosen.digest(0), "content": content}

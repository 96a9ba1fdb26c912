"""DataStore: the samples of one split on disk, from token shards if there are any, otherwise from raw files."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fourm_engine.data.bad_files import BadFile
from fourm_engine.data.config import DataConfig
from fourm_engine.data.names_table import Names, NameTable
from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.raw.names import shown
from fourm_engine.data.raw.store import RawStore
from fourm_engine.data.splits import Split
from fourm_engine.data.store import Store
from fourm_engine.data.tokens.indexing import has_tokens
from fourm_engine.data.tokens.shards import digest
from fourm_engine.data.tokens.store import TokenStore
from fourm_engine.data.views import DrawnViews, ViewDrawer
from fourm_engine.modalities import host_of
from fourm_engine.storage.location import Location
from fourm_plugins.counting import counted
from fourm_plugins.modality import Modality
from fourm_plugins.tokenizer import Tokenizer

log = logging.getLogger(__name__)
#: Maximum number of samples whose tokens are looked up, and of files whose size and time are compared with those that
#: the tokens were made from: at most a second of CPU time for any number of samples.
_COMPARED, _FILES = 10_000, 20_000
#: Number of rows of two tables to join at a time.
_JOINED = 1 << 22


class DataStore(Store):
    """The samples of `split` in `tokens` or, without tokens, in `raw`; modalities without tokens are read from `raw`.
    At least one of the two is given. Raises ValueError if `tokens` holds no sample of the split, or if no raw file of a
    modality can be used."""

    def __init__(self, split: Split, *, raw: RawStore | None, tokens: TokenStore | None) -> None:
        self.split, self.raw, self._tokenized = split, raw, frozenset(tokens.parts) if tokens else frozenset[str]()
        if tokens is not None:
            tokens = tokens.selecting(_rows(split, tokens.index.names, quiet=raw is not None))
            if not len(tokens):
                part = f"split {split.name!r} of data.{split.part}"
                what = f"none of its {counted(len(tokens.index), 'sample')} is in {part}"
                remedy = f"run `fourm tokenize` again, or correct data.{split.part}_split"
                raise ValueError(f"{tokens.folder}: {what}; {remedy}")
        store = tokens or raw
        assert store is not None
        self.tokens, self.names, self.views = tokens, store.names, store.views
        if raw is not None and tokens is not None:
            self._compare(raw.data, tokens)
        if raw is not None:
            raw.data.check_usable(name for name in raw.data.modalities if name not in self._tokenized)

    @classmethod
    def from_config(
        cls,
        config: DataConfig,
        modalities: Mapping[str, Modality],
        tokenizers: Mapping[str, Tokenizer],
        *,
        training: bool,
        seed: int,
    ) -> DataStore:
        """The training split of a config, or with `training=False` the validation split, seen through centre crops.

        Args:
            tokenizers: modality -> fitted tokenizer, of all modalities without tokens.

        Raises ValueError if there is neither raw data nor tokens, or if one of the two does not fit."""
        split = Split.from_config(config, training=training, host=host_of(modalities))
        drawer = ViewDrawer.from_config(modalities, config, training=training, seed=seed)
        folder = config.at(config.tokens / split.part) if config.tokens else None
        tokens, raw, data = None, None, None
        there = folder is not None and has_tokens(folder)
        if isinstance(split.root, Path) and there and not split.root.is_dir():
            log.warning("data.%s: %s is not there; %s alone is used", split.part, split.root, folder)
        elif split.root is not None:
            data = AlignedData.from_config(modalities, config, training=training)
        if folder is not None and there:
            tokens = TokenStore(folder, modalities, tokenizers)
        elif data is None:
            raise ValueError(f"neither raw data nor tokens in {folder}; set data.train and data.tokens")
        elif folder is not None:
            log.warning("no tokens in %s: every sample is tokenized when it is read; run `fourm tokenize`", folder)
        if data is not None:
            seen = tokens.recorded if tokens else DrawnViews(drawer, data, config.views if training else 1)
            raw = RawStore(data, tokenizers, seen, cache_bytes=config.cache_mb << 20)
        store = cls(split, raw=raw, tokens=tokens)
        store._tell_untokenized(modalities)
        return store

    def _tell_untokenized(self, modalities: Mapping[str, Modality]) -> None:
        """Warn of modalities that are tokenized on every read, or that the split lacks entirely."""
        data = self.raw.data if self.raw is not None else None
        counts = data.counts if data is not None else {}
        slow, without = list[str](), list[str]()
        for name in modalities.keys() - self._tokenized:
            if counts.get(name):
                slow += [] if modalities[name].spec.continuous else [name]
            elif data is None or data.anywhere(name):
                without.append(name)
        if slow and self.tokens is not None:
            what = "no tokens of %s in %s: tokenized whenever a sample is read, which is slow; run `fourm tokenize`"
            log.warning(what, ", ".join(sorted(slow)), self.tokens.folder)
        if without:
            where = self.tokens.folder if data is None and self.tokens is not None else shown(self.split.root)
            what = "data.%s: no data of %s in %s; its samples are used without"
            log.warning(what, self.split.part, ", ".join(sorted(without)), where)

    def _compare(self, data: AlignedData, tokens: TokenStore) -> None:
        """Report samples, among some, that have no tokens, or whose files are missing or may have changed since."""
        some = data.names[:: max(1, len(data.names) // _COMPARED)]
        used = tokens.selection.holds(tokens.index.names.rows(some))
        absent = [name for name, there in zip(some, used.tolist()) if not there]
        if absent or len(data.names) > len(self):
            lacking = f"{max(len(absent), len(data.names) - len(self))} of {counted(len(data.names), 'sample')}"
            example = f", such as {absent[0]}" if absent else ""
            log.warning("%s lacks %s%s, left out; run `fourm tokenize` again", tokens.folder, lacking, example)
        if not any(isinstance(folder, Location) for folder in (data.root, tokens.folder)):
            # Times in a remote store differ, and copying shards to compare their members takes too long.
            self._compare_files(data, tokens)

    def _compare_files(self, data: AlignedData, tokens: TokenStore) -> None:
        gone, changed, there = list[tuple[str, str]](), list[tuple[str, str]](), 0  # (sample, modality)
        for name in tokens.parts:
            for sample, stamp in tokens.stamps(name, max(1, _FILES // len(tokens.parts))):
                if not data.exists(sample, name):
                    gone.append((sample, name))
                elif name in data.has(sample):
                    there += 1
                    changed += [(sample, name)] if digest(data.stamp(sample, name)) != stamp else []
        if gone:
            some = f"{counted(len(gone), 'file')} gone, such as {gone[0][1]} of {gone[0][0]}"
            log.info("%s: %s; tokens are used (`fourm tokenize --prune` drops them)", data.root, some)
        if changed:
            names, example = ", ".join(sorted({name for _, name in changed})), data.where(*changed[0])
            files = f"{len(changed):,} of {counted(there, 'file')} ({names})"
            log.warning("size or time of %s changed since tokenizing, such as %s; run `fourm tokenize`", files, example)

    def _raw_row(self, row: int) -> int | None:
        if self.raw is None or self.tokens is None:
            return row if self.raw is not None else None
        return self.raw.row(self.names[row])

    @property
    def shard_sizes(self) -> np.ndarray:
        return self.tokens.shard_sizes if self.tokens is not None else super().shard_sizes

    def has(self, row: int) -> frozenset[str]:
        tokens = self.tokens.has(row) if self.tokens else frozenset[str]()
        raw_row = self._raw_row(row)
        return tokens if self.raw is None or raw_row is None else tokens | (self.raw.has(raw_row) - self._tokenized)

    def kinds(self) -> Counter[frozenset[str]]:
        if self.tokens is None:
            assert self.raw is not None
            return self.raw.kinds()
        counts = self.raw.data.counts if self.raw is not None else {}
        if not (more := sorted(name for name, count in counts.items() if count and name not in self._tokenized)):
            return self.tokens.kinds()
        assert self.raw is not None
        return _joint_kinds(self.tokens, self.raw.data, more)

    def load(self, row: int, modality: str, view: int = 0) -> np.ndarray:
        if modality in self._tokenized:
            assert self.tokens is not None
            return self.tokens.load(row, modality, view)
        raw_row = self._raw_row(row)
        assert self.raw is not None
        assert raw_row is not None
        return self.raw.load(raw_row, modality, view)

    @property
    def reads_ahead(self) -> bool:  # type: ignore[override]
        folders = (self.tokens and self.tokens.folder, self.raw and self.raw.data.root)
        return any(isinstance(folder, Location) for folder in folders)

    def ahead(self, rows: Sequence[int], *, now: bool = False) -> None:
        if self.tokens is not None:
            self.tokens.ahead(rows, now=now, views=self.raw is not None)
        if self.raw is not None:
            there = [raw_row for row in rows if (raw_row := self._raw_row(row)) is not None]
            self.raw.data.ahead([self.raw.names[row] for row in there], without=self._tokenized, now=now)

    def skip(self, row: int, bad: BadFile) -> None:
        raw_row = self._raw_row(row)
        assert self.raw is not None
        assert raw_row is not None
        self.raw.skip(raw_row, bad)

    def identity(self) -> dict[str, Any]:
        store = self.tokens or self.raw
        assert store is not None
        return store.identity()

    def contents(self) -> dict[str, Any]:
        if self.raw is None:  # what tokens hold is part of their identity
            return {}
        return self.raw.data.contents(self.raw.data.modalities.keys() - self._tokenized)

    def describe(self) -> str:
        sources = [str(self.raw.data.root)] if self.raw else []
        if self.tokens is not None:
            sources.append(f"tokens in {self.tokens.folder}")
        return self.split.describe(len(self.names), " and ".join(sources))

    def report(self) -> str:
        return self.raw.report() if self.raw else super().report()


def _rows(split: Split, table: NameTable, *, quiet: bool) -> np.ndarray | None:
    """int64: the rows of a split's samples, ascending; None for all, which costs neither time nor memory."""
    if split.listed is None and split.held_out == frozenset() and split.share is None and split.taken == 1:
        return None
    chosen = split.select(Names(table), quiet=quiet)
    return chosen.rows if isinstance(chosen, Names) else np.sort(table.rows(list(chosen)))


def _joint_kinds(tokens: TokenStore, data: AlignedData, more: Sequence[str]) -> Counter[frozenset[str]]:
    """Set of modalities -> samples with just these, from tokens, and from raw data those in `more`. The two tables of
    names are joined by their hashes, without reading a name."""
    index, raw = tokens.index, data.names.table
    bits = np.zeros(len(raw), np.uint64)
    for bit, name in enumerate(more):
        bits[data.having(name).rows] |= np.uint64(1 << bit)
    kinds: Counter[frozenset[str]] = Counter()
    for start in range(0, len(index), _JOINED):
        hashes, rows = (column[start : start + _JOINED] for column in (index.names.hashes, index.names.order))
        taken = tokens.selection.holds(rows)
        hashes, masks = hashes[taken], index.present[rows[taken]]
        at = np.searchsorted(raw.hashes, hashes).clip(max=len(raw) - 1)
        files = np.where(raw.hashes[at] == hashes, bits[raw.order[at]], np.uint64(0))
        for mask in np.unique(masks):
            for file, count in zip(*np.unique(files[masks == mask], return_counts=True)):
                names = {name for bit, name in enumerate(more) if int(file) >> bit & 1}
                kinds[index.modalities_in(int(mask)) & frozenset(tokens.parts) | names] += int(count)
    return kinds

"""DataStore: the samples of one split on disk, from token shards where there are some, and from raw files otherwise."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fourm_engine.data.aligned import AlignedData
from fourm_engine.data.bad_files import BadFile
from fourm_engine.data.config import DataConfig
from fourm_engine.data.raw_store import RawStore
from fourm_engine.data.shards import digest
from fourm_engine.data.splits import Split
from fourm_engine.data.store import Store
from fourm_engine.data.token_store import TokenStore
from fourm_engine.data.views import DrawnViews, ViewDrawer
from fourm_plugins.modality import Modality
from fourm_plugins.tokenizer import Tokenizer

log = logging.getLogger(__name__)
#: Files of a modality whose size and time are compared with those that the tokens were made from.
_COMPARED = 10_000


class DataStore(Store):
    """The samples of `split` in `tokens`, or without tokens those in `raw`; a modality without tokens is read from
    `raw`. At least one of the two is given.

    Raises ValueError where `tokens` holds no sample of the split, or no raw file of a modality can be used."""

    def __init__(self, split: Split, *, raw: RawStore | None, tokens: TokenStore | None) -> None:
        self.split, self.raw, self.tokens = split, raw, tokens
        store = tokens or raw
        assert store is not None
        self.names, self.views = store.names, store.views
        self._tokenized = frozenset(tokens.shards) if tokens else frozenset[str]()
        if tokens is not None:
            self.names = sorted(split.select(tokens.names, quiet=raw is not None))
            if not self.names:
                raise ValueError(
                    f"{tokens.folder}: none of its {len(tokens.names)} samples is in split {split.name!r} of "
                    f"data.{split.part}; run `fourm tokenize` again, or correct data.{split.part}_split"
                )
        self._raw_rows: Sequence[int | None] = range(len(self.names))
        if tokens is not None:
            self._raw_rows = _rows(self.names, raw.names if raw else [])
        self._token_rows = [row for row in _rows(self.names, tokens.names if tokens else []) if row is not None]
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

        Raises ValueError where there is neither raw data nor tokens, or one of the two does not fit."""
        split = Split.from_config(config, training=training)
        drawer = ViewDrawer.from_config(modalities, config, training=training, seed=seed)
        folder = config.tokens / split.part if config.tokens else None
        tokens, raw, data = None, None, None
        there = folder is not None and TokenStore.there(folder)
        if split.root is not None and there and not split.root.is_dir():
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
        counts = data.counts if data else {}
        if unread := [name for name in modalities if name not in store._tokenized and not counts.get(name)]:
            log.warning("no data of %s; samples are used without", ", ".join(unread))
        return store

    def _compare(self, data: AlignedData, tokens: TokenStore) -> None:
        """Report samples without tokens, and those whose files have vanished or may have changed since."""
        if absent := sorted(set(data.names) - set(self.names)):
            log.warning(
                "%s lacks %d of %d samples, such as %s, which are left out; run `fourm tokenize` again",
                tokens.folder,
                len(absent),
                len(data.names),
                absent[0],
            )
        for name, shards in tokens.shards.items():
            made, having = shards.column("stamp"), data.having(name)
            if gone := [sample for sample in self.names if sample in made and not data.exists(sample, name)]:
                log.info(
                    "%s: the files of %d samples, such as %s, are no longer there; their tokens are used "
                    "(`fourm tokenize --prune` drops them)",
                    name,
                    len(gone),
                    gone[0],
                )
            both = [sample for sample in self.names if sample in made and sample in having]
            both = both[:: max(1, len(both) // _COMPARED)]
            if changed := [sample for sample in both if digest(data.stamp(sample, name)) != made[sample]]:
                log.warning(
                    "%s: size or time of %d of %d files, such as %s, is not that of when they were tokenized; if they "
                    "have changed, run `fourm tokenize` again",
                    name,
                    len(changed),
                    len(both),
                    data.where(changed[0], name),
                )

    def has(self, row: int) -> frozenset[str]:
        tokens = self.tokens.has(self._token_rows[row]) if self.tokens else frozenset[str]()
        raw_row = self._raw_rows[row] if self.raw else None
        return tokens if self.raw is None or raw_row is None else tokens | (self.raw.has(raw_row) - self._tokenized)

    def kinds(self) -> Counter[frozenset[str]]:
        return self.raw.kinds() if self.raw is not None and self.tokens is None else super().kinds()

    def load(self, row: int, modality: str, view: int = 0) -> np.ndarray:
        if modality in self._tokenized:
            assert self.tokens is not None
            return self.tokens.load(self._token_rows[row], modality, view)
        assert self.raw is not None
        raw_row = self._raw_rows[row]
        assert raw_row is not None
        return self.raw.load(raw_row, modality, view)

    def skip(self, row: int, bad: BadFile) -> None:
        raw_row = self._raw_rows[row]
        assert self.raw is not None
        assert raw_row is not None
        self.raw.skip(raw_row, bad)

    def identity(self) -> dict[str, Any]:
        if self.tokens is not None:
            return super().identity() | self.tokens.recorded.identity(self.names)
        assert self.raw is not None
        return self.raw.identity()

    def describe(self) -> str:
        places = [str(self.raw.data.root)] if self.raw else []
        if self.tokens is not None:
            places.append(f"tokens in {self.tokens.folder}")
        return self.split.describe(len(self.names), " and ".join(places))

    def report(self) -> str:
        return self.raw.report() if self.raw else super().report()


def _rows(names: Sequence[str], among: Sequence[str]) -> list[int | None]:
    """The row of each name among others; None where it is not one of them."""
    rows = {name: row for row, name in enumerate(among)}
    return [rows.get(name) for name in names]

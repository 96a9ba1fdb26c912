"""Checks the token shards of a part of a data set: codes, lengths, and whether they still match its files.

In: a folder written by `fourm tokenize`, and the digests of the files that were read. Out: a JSON-ready entry per
modality, and findings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fourm_engine.data.checks.findings import Finding, Level, Listed
from fourm_engine.data.checks.statistics import lengths
from fourm_engine.data.raw.names import shown
from fourm_engine.data.tokens.index import OUTDATED, Index
from fourm_engine.data.tokens.indexing import open_index
from fourm_engine.data.tokens.shards import VIEWS_FOLDER, digest, missing
from fourm_engine.data.tokens.token_shards import TokenShard
from fourm_engine.data.tokens.view_shards import ViewShard
from fourm_plugins.counting import counted
from fourm_plugins.modality import Modality
from fourm_plugins.tokenizer import Tokenizer

_AGAIN = "run `fourm tokenize` again"
_REMOVE = f"remove the shard and {_AGAIN}"


@dataclass(frozen=True)
class Files:
    """The files of one modality in a part. `contents`: sample -> digest, for those that were read. `having`: all
    samples of the part that have one. `stamp`: sample -> sizes and times of its files."""

    contents: Mapping[str, int]
    having: Collection[str]
    stamp: Callable[[str], str]


class TokenCheck:
    """Checks the tokens in `folder`, updating its index, with the available `modalities` and `tokenizers`. Results:
    `entries` and `findings`."""

    def __init__(
        self,
        folder: Path,
        part: str,
        modalities: Mapping[str, Modality],
        tokenizers: Mapping[str, Tokenizer],
        files: Mapping[str, Files],
    ) -> None:
        self.folder, self.part = folder, part
        self.entries: list[dict[str, Any]] = []
        self.findings: list[Finding] = []
        try:
            index = open_index(folder)
            index.check()
        except ValueError as error:
            self._say("problem", "", str(error), "training ends there")
            return
        for part, (first, shards) in index.missing().items():
            self._say("problem", "" if part == VIEWS_FOLDER else part, missing(folder, part, first, shards))
        self._views(index)
        for name in index.modalities:
            modality = modalities.get(name)
            fingerprints = self._making(index, name, modality, tokenizers.get(name))
            tokens = _Tokens(index, name, modality, files.get(name))
            for shard in index.holding(name).tolist():
                try:
                    tokens.add(shard)
                except ValueError as error:
                    self._say("problem", name, str(error), _REMOVE)
            self.entries.append({"part": self.part, **tokens.entry(), "fingerprint": ", ".join(fingerprints)})
            for level, what, remedy, samples in tokens.faults():
                some = f"{counted(samples.count, 'sample')} of {name}, such as {shown(samples.items[0])}"
                self._say(level, name, f"{some}: {what}", remedy, samples)
        for name in files.keys() - set(index.modalities):
            if not modalities[name].spec.continuous:
                self._say("note", name, f"{shown(folder)}: no tokens of {name}; it is tokenized whenever it is read")

    def _say(self, level: Level, name: str, message: str, remedy: str = _AGAIN, items: Listed | None = None) -> None:
        message = f"{self.part}: {message}"
        self.findings.append(Finding("tokens", level, message, remedy, self.part, name, items or Listed()))

    def _views(self, index: Index) -> None:
        for number in range(len(index.shards)):
            try:
                shard = ViewShard(index.path(0, number))
                if len(bad := shard.damaged_rows()):
                    items = Listed(shard.names[row] for row in bad.tolist())
                    what = f"views of {counted(len(bad), 'sample')}, such as {shown(items.items[0])}, are not those"
                    self._say("problem", "", f"{shard.path}: damaged: {what} that were recorded", _REMOVE, items)
            except ValueError as error:
                self._say("problem", "", str(error), _REMOVE)

    def _making(self, index: Index, name: str, modality: Modality | None, tokenizer: Tokenizer | None) -> list[str]:
        """Check how the tokens of a modality were made; returns the fingerprints of their tokenizers."""
        made, folder = index.made(name), self.folder / name
        for way, path in made.items():
            try:
                if modality is not None:
                    way.check(modality, path)
            except ValueError as error:
                self._say("problem", name, str(error), "training ends there")
        fingerprints = sorted({way.fingerprint for way in made})
        if len(fingerprints) > 1 or (tokenizer is not None and fingerprints != [tokenizer.fingerprint]):
            fitted = f"; that of {name} is {tokenizer.fingerprint}" if tokenizer is not None else ""
            what = f"made by tokenizer {' and '.join(fingerprints)}{fitted}"
            self._say("problem", name, f"{folder}: {what}", "tokenize again into an empty folder")
        if outdated := int(index.files[:, index.parts.index(name), OUTDATED].sum()):
            what = f"{counted(outdated, 'sample')} made through other views than those in {VIEWS_FOLDER}"
            self._say("problem", name, f"{folder}: {what}")
        return fingerprints


class _Tokens:
    """The tokens of one modality, accumulated shard by shard. `files`: those of the part, if they were read."""

    def __init__(self, index: Index, name: str, modality: Modality | None, files: Files | None) -> None:
        self.index, self.name, self.files = index, name, files
        self.spec = modality.spec if modality is not None else None
        space = self.spec.token_space if self.spec is not None else None
        self.counts = np.zeros(space.size if space else 0, np.int64)  # (ids,) number of occurrences of each
        self.lengths = Counter[int]()
        self.known = set[str]()  # samples with tokens
        self.damaged, self.constant, self.changed, self.touched, self.gone = (Listed() for _ in range(5))

    def add(self, shard: int) -> None:
        index = self.index
        path = index.path(index.parts.index(self.name), shard)
        assert isinstance(path, Path)  # tokens to check
        tokens = TokenShard(path, int(index.shards[shard, 1]), int(index.shards[shard, 2]))
        ids, bad = tokens.ids(), frozenset(tokens.damaged_rows().tolist())
        contents, stamps = tokens.numbers("content").tolist(), tokens.numbers("stamp").tolist()
        for row in np.flatnonzero(index.has(self.name, index.rows_of(shard))).tolist():
            sample = index.names.name(int(index.starts[shard]) + row)
            self.known.add(sample)
            views = [view[view >= 0] for view in ids[row]]
            if row in bad or not self._possible(views):
                self.damaged.add(sample)
                continue
            self._count(sample, views)
            if self.files is None:
                continue
            if sample not in self.files.having:
                self.gone.add(sample)
            elif sample in self.files.contents:
                if self.files.contents[sample] != contents[row]:
                    self.changed.add(sample)
            elif digest(self.files.stamp(sample)) != stamps[row]:
                self.touched.add(sample)

    def _possible(self, views: Sequence[np.ndarray]) -> bool:
        """Whether ids are valid for the modality: in its space, and as many as its layout has."""
        if self.spec is None or self.spec.token_space is None:
            return True
        size, layout = self.spec.token_space.size, self.spec.layout
        whole = layout.num_tokens if layout.kind != "sequence" else None
        return all(ids.max(initial=-1) < size and whole in (None, len(ids)) for ids in views)

    def _count(self, sample: str, views: Sequence[np.ndarray]) -> None:
        together = np.concatenate(views)
        if self.spec is None and len(together) and together.max() >= len(self.counts):
            self.counts = np.pad(self.counts, (0, int(together.max()) + 1 - len(self.counts)))
        self.counts += np.bincount(together, minlength=len(self.counts))
        self.lengths.update(len(ids) + 1 for ids in views)  # including the end marker
        grid = self.spec is not None and self.spec.layout.kind == "grid" and self.spec.layout.num_tokens > 1
        if grid and all(np.ptp(ids) == 0 for ids in views):
            self.constant.add(sample)

    def entry(self) -> dict[str, Any]:
        """JSON-ready."""
        used = self.counts[self.counts > 0]
        share = used / max(int(used.sum()), 1)
        entry: dict[str, Any] = {
            "modality": self.name,
            "samples": len(self.known),
            "views": self.index.views,
            "shards": len(self.index.holding(self.name)),
            "ids": len(self.counts),
            "used": len(used),
            "perplexity": float(np.exp(-(share * np.log(share)).sum())) if len(used) else None,
            "constant": self.constant.count,
            "damaged": self.damaged.count,
        }
        if self.spec is not None and self.spec.layout.kind == "sequence" and self.lengths:
            most = self.spec.layout.num_tokens
            cut = sum(n for length, n in self.lengths.items() if length > most) / self.lengths.total()
            entry["tokens"] = lengths(self.lengths) | {"most": most, "truncated": cut}
        return entry

    def faults(self) -> Iterator[tuple[Level, str, str, Listed]]:
        """(level, problem, remedy, samples) of each problem found."""
        having = self.files.having if self.files is not None else ()
        absent = Listed(sorted(sample for sample in having if sample not in self.known))
        unwritten = "ids that were not written, or that the modality does not have; the shard is damaged"
        too_few = "empty pictures, or a tokenizer that tells too little apart (`fourm tokenizer eval`)"
        changed = "the files hold something else than when they were tokenized"
        touched = "files that were not read have another size or time than when they were tokenized"
        unlisted = "tokens, but no file in this part; used where the split lists them"
        prune = "`fourm tokenize --prune` drops those whose file is gone"
        faults: list[tuple[Level, str, str, Listed]] = [
            ("problem", unwritten, f"{_AGAIN} (--verify)", self.damaged),
            ("note", "one id alone", too_few, self.constant),
            ("problem", changed, f"{_AGAIN} (--verify)", self.changed),
            ("note", touched, f"{_AGAIN}, if they have changed", self.touched),
            ("note", unlisted, prune, self.gone),
            ("problem", "no tokens; training leaves them out", _AGAIN, absent),
        ]
        yield from (fault for fault in faults if fault[3].count)

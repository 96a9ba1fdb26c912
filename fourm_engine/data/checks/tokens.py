"""What the token shards of a part of a data set hold: codes, lengths, and whether they are still those of its files.

In: a folder that `fourm tokenize` wrote, and the digests of the files that were read. Out: a JSON-ready entry a
modality, and findings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fourm_engine.data.checks.findings import Finding, Level, Listed
from fourm_engine.data.checks.statistics import lengths
from fourm_engine.data.raw.names import shown
from fourm_engine.data.tokens.index import OUTDATED, Index
from fourm_engine.data.tokens.indexing import open_index
from fourm_engine.data.tokens.shards import VIEWS_FOLDER, digest
from fourm_engine.data.tokens.token_shards import TokenShard
from fourm_engine.data.tokens.view_shards import ViewShard
from fourm_plugins.counting import counted
from fourm_plugins.modality import Modality
from fourm_plugins.tokenizer import Tokenizer

_AGAIN = "run `fourm tokenize` again"


@dataclass(frozen=True)
class Files:
    """The files of one modality in a part. `contents`: sample -> digest, of those that were read. `having`: all samples
    of the part that have one. `stamp`: sample -> sizes and times of its files."""

    contents: Mapping[str, int]
    having: Collection[str]
    stamp: Callable[[str], str]


@dataclass
class _Tokens:
    """What is found of one modality, shard by shard."""

    counts: np.ndarray  # (ids,) how often each occurs
    lengths: Counter[int] = field(default_factory=Counter)
    samples: int = 0
    damaged: Listed = field(default_factory=Listed)
    constant: Listed = field(default_factory=Listed)
    changed: Listed = field(default_factory=Listed)
    touched: Listed = field(default_factory=Listed)
    gone: Listed = field(default_factory=Listed)
    known: set[str] = field(default_factory=set)


class TokenCheck:
    """Checks the tokens in `folder`, whose index is brought up to date; `modalities` and `tokenizers` as far as they
    are there. `entries` and `findings` are the result."""

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
        self._views(index)
        for name in index.modalities:
            self._modality(index, name, modalities.get(name), tokenizers.get(name), files.get(name))
        for name in files.keys() - set(index.modalities):
            if not modalities[name].spec.continuous:
                self._say("note", name, f"{shown(folder)}: no tokens of {name}; it is tokenized whenever it is read")

    def _say(self, level: Level, name: str, message: str, remedy: str = _AGAIN, items: Listed | None = None) -> None:
        self.findings.append(
            Finding("tokens", level, f"{self.part}: {message}", remedy, self.part, name, items or Listed())
        )

    def _views(self, index: Index) -> None:
        for number in index.shards[:, 0].tolist():
            try:
                shard = ViewShard(self.folder, number)
                if len(bad := shard.damaged_rows()):
                    items = Listed(shard.names[row] for row in bad.tolist())
                    what = f"views of {counted(len(bad), 'sample')}, such as {shown(items.items[0])}, are not those"
                    self._say("problem", "", f"{shard.path}: damaged: {what} that were recorded", _REMOVE, items)
            except ValueError as error:
                self._say("problem", "", str(error), _REMOVE)

    def _modality(
        self, index: Index, name: str, modality: Modality | None, tokenizer: Tokenizer | None, files: Files | None
    ) -> None:
        part = index.parts.index(name)
        made = index.made(name)
        for way, path in made.items() if modality is not None else ():
            try:
                assert modality is not None
                way.check(modality, path)
            except ValueError as error:
                self._say("problem", name, str(error), "training ends there")
        fingerprints = sorted({way.fingerprint for way in made})
        if len(fingerprints) > 1 or (tokenizer is not None and fingerprints != [tokenizer.fingerprint]):
            fitted = f"; that of {name} is {tokenizer.fingerprint}" if tokenizer is not None else ""
            what = f"made by tokenizer {' and '.join(fingerprints)}{fitted}"
            self._say("problem", name, f"{self.folder / name}: {what}", "tokenize again into an empty folder")
        if outdated := int(index.files[:, part, OUTDATED].sum()):
            what = f"{counted(outdated, 'sample')} made through other views than those in {VIEWS_FOLDER}"
            self._say("problem", name, f"{self.folder / name}: {what}")
        space = modality.spec.token_space if modality is not None else None
        found = _Tokens(np.zeros(space.size if space else 0, np.int64))
        for shard in index.holding(name).tolist():
            try:
                self._shard(index, name, shard, modality, files, found)
            except ValueError as error:
                self._say("problem", name, str(error), _REMOVE)
        self.entries.append(self._entry(index, name, modality, fingerprints, found))
        self._tell(name, found, files)

    def _shard(
        self, index: Index, name: str, shard: int, modality: Modality | None, files: Files | None, found: _Tokens
    ) -> None:
        path = index.path(index.parts.index(name), shard)
        assert isinstance(path, Path)  # tokens that are checked are here
        tokens = TokenShard(path, int(index.shards[shard, 1]), int(index.shards[shard, 2]))
        ids, bad = tokens.ids(), frozenset(tokens.damaged_rows().tolist())
        contents, stamps = tokens.column("content").tolist(), tokens.column("stamp").tolist()
        for row in _present(index, name, shard):
            sample = index.names.name(int(index.starts[shard]) + row)
            found.samples += 1
            found.known.add(sample)
            rows = [view[view >= 0] for view in ids[row]]
            together = np.concatenate(rows)
            if row in bad or not _possible(rows, modality):
                found.damaged.add(sample)
                continue
            if modality is None and len(together) and together.max() >= len(found.counts):
                found.counts = np.pad(found.counts, (0, int(together.max()) + 1 - len(found.counts)))
            found.counts += np.bincount(together, minlength=len(found.counts))
            found.lengths.update(len(one) + 1 for one in rows)  # with the end marker
            grid = modality is not None and modality.spec.layout.kind == "grid" and modality.spec.layout.num_tokens > 1
            if grid and all(np.ptp(one) == 0 for one in rows):
                found.constant.add(sample)
            if files is None:
                continue
            if sample not in files.having:
                found.gone.add(sample)
            elif sample in files.contents:
                if files.contents[sample] != contents[row]:
                    found.changed.add(sample)
            elif digest(files.stamp(sample)) != stamps[row]:
                found.touched.add(sample)

    def _entry(
        self, index: Index, name: str, modality: Modality | None, fingerprints: list[str], found: _Tokens
    ) -> dict[str, Any]:
        used = found.counts[found.counts > 0]
        share = used / max(int(used.sum()), 1)
        entry: dict[str, Any] = {
            "part": self.part,
            "modality": name,
            "samples": found.samples,
            "views": index.views,
            "shards": len(index.holding(name)),
            "ids": len(found.counts),
            "used": len(used),
            "perplexity": float(np.exp(-(share * np.log(share)).sum())) if len(used) else 0.0,
            "constant": found.constant.count,
            "damaged": found.damaged.count,
            "fingerprint": ", ".join(fingerprints),
        }
        if modality is not None and modality.spec.layout.kind == "sequence" and found.lengths:
            most = modality.spec.layout.num_tokens
            cut = sum(n for length, n in found.lengths.items() if length > most) / found.lengths.total()
            entry["tokens"] = lengths(found.lengths) | {"most": most, "truncated": cut}
        return entry

    def _tell(self, name: str, found: _Tokens, files: Files | None) -> None:
        def of(listed: Listed) -> str:
            return f"{counted(listed.count, 'sample')} of {name}, such as {shown(listed.items[0])}"

        if found.damaged.count:
            what = "ids that were not written, or that the modality does not have; the shard is damaged"
            self._say("problem", name, f"{of(found.damaged)}: {what}", f"{_AGAIN} (--verify)", found.damaged)
        if found.constant.count:
            remedy = "empty pictures, or a tokenizer that tells too little apart (`fourm tokenizer eval`)"
            self._say("note", name, f"{of(found.constant)}: one id alone", remedy, found.constant)
        if found.changed.count:
            what = "the files hold something else than when they were tokenized"
            self._say("problem", name, f"{of(found.changed)}: {what}", f"{_AGAIN} (--verify)", found.changed)
        if found.touched.count:
            what = "files that were not read have another size or time than when they were tokenized"
            self._say("note", name, f"{of(found.touched)}: {what}", f"{_AGAIN}, if they have changed", found.touched)
        if found.gone.count:
            what = "tokens, but no file in this part; used where the split lists them"
            remedy = "`fourm tokenize --prune` drops those whose file is gone"
            self._say("note", name, f"{of(found.gone)}: {what}", remedy, found.gone)
        if files is not None:
            absent = Listed(sorted(sample for sample in files.having if sample not in found.known))
            if absent.count:
                self._say("problem", name, f"{of(absent)}: no tokens; training leaves them out", _AGAIN, absent)


_REMOVE = f"remove the shard and {_AGAIN}"


def _present(index: Index, name: str, shard: int) -> Iterator[int]:
    """Rows of a shard that have tokens of a modality."""
    bit = index.present.dtype.type(index.modalities.index(name))
    yield from np.flatnonzero(index.present[index.rows_of(shard)] >> bit & 1).tolist()


def _possible(rows: Iterable[np.ndarray], modality: Modality | None) -> bool:
    """Whether ids are those of the modality: in its space, and as many as its layout has."""
    if modality is None or modality.spec.token_space is None:
        return True
    spec, size = modality.spec, modality.spec.token_space.size
    whole = spec.layout.num_tokens if spec.layout.kind != "sequence" else None
    return all(row.max(initial=-1) < size and whole in (None, len(row)) for row in rows)

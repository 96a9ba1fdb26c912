"""Tokenizes a data set: raw files through plugins and tokenizers to token shards.

In: raw data, fitted tokenizers, and existing shards. Out: shards as in `fourm_engine.data.tokens.shards`, and a report.
The samples of a shard are fixed when its views are recorded: new samples go into new shards, and vanished ones keep
their tokens. Samples are encoded if their files are new or have other content, or if their views were redrawn; every
other row is kept, so that an interrupted run can be continued. The index is written by the process that finds all
shards complete.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from fourm_engine.data.config import DataConfig
from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.raw.documents import copy_documents
from fourm_engine.data.splits import copy_splits
from fourm_engine.data.tokens.differences import Differences
from fourm_engine.data.tokens.indexing import has_tokens, open_index
from fourm_engine.data.tokens.prepare import Encoder, Prepared, Preparer, Task, prepare
from fourm_engine.data.tokens.recording import ViewRecorder
from fourm_engine.data.tokens.shards import VIEWS_FOLDER, names_digest, shard_path
from fourm_engine.data.tokens.tally import Tally, TokenizeReport
from fourm_engine.data.tokens.token_shards import Made, TokenShard, TokenShardWriter
from fourm_engine.data.tokens.view_shards import ViewShard
from fourm_engine.data.views import SampleViews, ViewDrawer
from fourm_engine.data.workers import preparing_workers
from fourm_engine.device import local_device
from fourm_engine.files import remove_leftovers
from fourm_plugins.tokenizer import Tokenizer


def tokenize_split(
    data: AlignedData,
    out: Path,
    tokenizers: Mapping[str, Tokenizer],
    config: DataConfig,
    progress: Callable[[int, int], None] | None = None,
    *,
    training: bool = True,
    seed: int = 0,
    rank: int = 0,
    world: int = 1,
    verify: bool = False,
    prune: bool = False,
) -> TokenizeReport:
    """Write the tokens of every modality with a token space to `out`.

    Args:
        data: of all active modalities; continuous ones only affect the choice of crops.
        tokenizers: modality -> fitted tokenizer.
        progress: called with (samples done, total) of this rank's remaining work, counting each modality.
        training: False for validation: one view, the centre crop.
        rank, world: this process writes the shards i with i % world == rank.
        verify: read every file and compare its content, even if its size and time are unchanged.
        prune: drop the tokens of deleted files. A modality without any file keeps all.

    Raises:
        ValueError: no data; no tokenizer; shards in `out` of another tokenizer or through other views.
        BadFile: an unusable file, where `config.on_error` is "raise".
    """
    began, out = time.perf_counter(), Path(out)
    modalities = data.modalities
    views = config.views if training else 1
    with_tokens = [name for name in sorted(modalities) if not modalities[name].spec.continuous]
    if missing := [name for name in with_tokens if name not in tokenizers]:
        raise ValueError(f"no tokenizer for {', '.join(missing)}; run `fourm tokenizer fit` first")
    data.check_usable(name for name in with_tokens if data.counts[name])
    drawer = ViewDrawer.from_config(modalities, config, training=training, seed=seed)
    index = open_index(out, write=False) if has_tokens(out) else None
    recorder = ViewRecorder(out, data, drawer, views, index)
    made = {name: index.made(name) if index is not None else {} for name in with_tokens}
    writers = {
        name: TokenShardWriter(out, modalities[name], tokenizers[name], views, made[name])
        for name in with_tokens
        if data.counts[name] or made[name]
    }
    shards = recorder.shards(config.shard_size)
    mine = [number for number in shards if number % world == rank]
    ours = {shard_path(Path(folder), number).as_posix() for folder in (VIEWS_FOLDER, *writers) for number in mine}
    remove_leftovers(out, ours.__contains__)
    if rank == 0:
        copy_splits(data.root, out)
        if isinstance(root := data.root, Path):
            for name in writers:
                copy_documents(modalities[name], root, out / name)

    report = TokenizeReport(modalities={name: Tally() for name in writers}, shards=len(mine) * len(writers))
    job = _Job(data, tokenizers, recorder, writers, views, report, verify=verify, prune=prune)
    # The remaining work in an existing shard is only known after comparing it.
    absent = [(data.having(m), recorder.names(n)) for n in mine for m in writers if not writers[m].exists(n)]
    job.total = sum(name in having for having, names in absent for name in names)
    workers = preparing_workers(job.total) if config.workers is None else config.workers
    encoding = local_device().type == "cpu" and workers >= torch.get_num_threads()
    preparer = Preparer(data, drawer, views, tokenizers if workers and encoding else None)
    for prepared in prepare(preparer, job.tasks(mine), workers=workers):
        job.take(prepared)
        if progress:
            progress(job.done, job.total)
    job.finish()
    complete = all(shard_path(out / VIEWS_FOLDER, number).is_file() for number in shards) and all(
        writer.exists(number) for writer in writers.values() for number in shards
    )
    if shards and complete:
        open_index(out)
    report.seconds = time.perf_counter() - began
    return report


@dataclass
class _Shard:
    """One shard being tokenized. `recorded`: its views; None until they are drawn, together with the arrays."""

    number: int
    names: list[str]
    differences: dict[str, Differences]
    encoders: dict[str, Encoder]
    dropped: frozenset[str]
    recorded: ViewShard | None = None
    drawn: dict[str, list[SampleViews]] = field(default_factory=dict)


class _Job:
    """Shard after shard: `tasks` yields what to read, ahead of time; `take` encodes what was read, and writes a shard
    when the first sample of the next arrives."""

    def __init__(
        self,
        data: AlignedData,
        tokenizers: Mapping[str, Tokenizer],
        recorder: ViewRecorder,
        writers: Mapping[str, TokenShardWriter],
        views: int,
        report: TokenizeReport,
        *,
        verify: bool,
        prune: bool,
    ) -> None:
        self.data, self.tokenizers, self.recorder, self.writers = data, tokenizers, recorder, writers
        self.views, self.report, self.verify, self.prune = views, report, verify, prune
        #: Samples done and in total, counting each modality.
        self.done = self.total = 0
        self._open: deque[_Shard] = deque()  # planned and not yet written, in order

    def tasks(self, numbers: Iterable[int]) -> Iterator[Task]:
        for number in numbers:
            shard = self._plan(number)
            self._open.append(shard)
            todo = {name: [m for m, d in shard.differences.items() if name in d.todo] for name in shard.names}
            for name, modalities in todo.items():
                if shard.recorded is None:
                    yield Task(number, name, tuple(modalities))
                elif modalities:
                    views = [shard.recorded.get(name, view) for view in range(self.views)]
                    yield Task(number, name, tuple(modalities), views)

    def _plan(self, number: int) -> _Shard:
        names = self.recorder.names(number)
        there = {name for name in names if self.data.has(name)}
        self.report.samples += len(there)
        differing = {
            m: Differences.find(self.data, m, names, writer.made(number, names, verify=self.verify), self.verify)
            for m, writer in self.writers.items()
        }
        dropped = self.recorder.dropped(number) - there
        if self.prune:
            dropped |= _vanished(names, self.data, self.recorder.out, number)
        shard = _Shard(number, names, differing, {m: Encoder(self.tokenizers[m]) for m in differing}, dropped)
        if self.recorder.recorded(number) or any(differences.before for differences in differing.values()):
            shard.recorded = self._settle(shard)
            for modality, differences in differing.items():
                differences.look_through(self._views_of(shard, modality))
                self.total += len(differences.todo) if self.writers[modality].exists(number) else 0
        return shard

    def _settle(self, shard: _Shard) -> ViewShard:
        aligned = {m: d for m, d in shard.differences.items() if self.data.modalities[m].spec.alignment is not None}

        def anchors(sample: str) -> list[str]:
            return [m for m, d in aligned.items() if sample in d.before and sample in d.stamps and sample not in d.todo]

        doubtful = frozenset().union(*(differences.todo for differences in aligned.values()))
        return self.recorder.settle(shard.number, shard.names, shard.dropped, doubtful, anchors)

    def _views_of(self, shard: _Shard, modality: str) -> dict[str, int]:
        """Sample -> digest of its views as the modality sees them."""
        assert shard.recorded is not None
        group = self.data.modalities[modality].spec.alignment
        return {} if group is None else shard.recorded.digests_of(group)

    def take(self, prepared: Prepared) -> None:
        while self._open[0].number != prepared.task.shard:
            self._write(self._open.popleft())
        shard, name = self._open[0], prepared.task.name
        shard.drawn[name] = prepared.views
        for bad in prepared.bad:
            if not self.data.skip(name, bad):
                self.report.unnamed.append(str(bad))
            self.report.modalities[bad.modality].left_out += 1
            self.report.bad.append(str(bad))
        for modality, arrays in prepared.arrays.items():
            shard.encoders[modality].add(name, arrays, prepared.contents[modality])
        for modality, ids in prepared.ids.items():
            shard.encoders[modality].take(name, ids, prepared.contents[modality])
        self.done += len(prepared.task.modalities)

    def finish(self) -> None:
        while self._open:
            self._write(self._open.popleft())

    def _write(self, shard: _Shard) -> None:
        number, names = shard.number, shard.names
        if shard.recorded is None:
            shard.recorded = self.recorder.record(number, {name: shard.drawn[name] for name in names}, shard.dropped)
        for modality, writer in self.writers.items():
            differences, encoder = shard.differences[modality], shard.encoders[modality]
            tally, views_of = self.report.modalities[modality], self._views_of(shard, modality)
            encoded = encoder.finish()
            kept = differences.kept(names, drop_vanished=self.prune and self.data.anywhere(modality))
            after, stamps = dict(kept), differences.stamps
            for name in encoded:
                after[name] = Made(stamps[name], encoder.contents[name], views_of.get(name, 0))
            if after != differences.before or not writer.exists(number):
                rows = {**(writer.ids(number, names) if kept else {}), **encoded}
                writer.write(number, names, {name: (after[name], rows[name]) for name in names if name in after})
                tally.written += 1
            differences.count(tally, encoded)


def _vanished(names: Sequence[str], data: AlignedData, out: Path, number: int) -> frozenset[str]:
    """The samples without a file, and, for a modality that has no files at all or is not active, those without
    tokens."""
    gone = [name for name in names if not any(data.exists(name, modality) for modality in data.modalities)]
    for folder in out.glob("*") if gone else ():
        path = shard_path(folder, number)
        if folder.name != VIEWS_FOLDER and not data.anywhere(folder.name) and path.is_file():
            tokens = TokenShard(path, len(names), names_digest(names)).numbers("digest")
            kept = {name for name, there in zip(names, tokens.tolist()) if there}
            gone = [name for name in gone if name not in kept]
    return frozenset(gone)

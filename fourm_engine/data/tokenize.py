"""Tokenize a data set: raw files through plugins and tokenizers into token shards.

In: raw data, fitted tokenizers, and existing shards. Out: shards as in `fourm_engine.data.shards`, and a report. Which
samples a shard holds is decided when its views are recorded: new samples go into new shards, and vanished ones keep
their tokens. Samples are encoded if their files are new or have other content, or if their views were drawn anew; every
other row stays. So a stopped run continues where it was. The index is made by the process that finds all shards there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fourm_engine.data.aligned import AlignedData
from fourm_engine.data.config import DataConfig
from fourm_engine.data.differences import Differences
from fourm_engine.data.encoder import ShardEncoder
from fourm_engine.data.indexing import has_tokens, open_index
from fourm_engine.data.recording import ViewRecorder
from fourm_engine.data.shards import VIEWS_FOLDER, names_digest, shard_path
from fourm_engine.data.splits import MAX_SPLITS_BYTES, SPLITS
from fourm_engine.data.tally import Tally, TokenizeReport
from fourm_engine.data.tokens import Made, TokenShard, TokenShardWriter
from fourm_engine.data.view_shards import ViewShard
from fourm_engine.data.views import ViewDrawer
from fourm_engine.files import remove_leftovers, write_atomically
from fourm_engine.storage.location import Location, Readable, content_of
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
    """Write the tokens of every modality with a token space below `out`.

    Args:
        data: of all active modalities; those that are continuous only take part in choosing the crops.
        tokenizers: modality -> fitted tokenizer.
        progress: called with (samples done, samples in all), each modality counted, of what this rank has left to do.
        training: False for validation: one view, the centre crop.
        rank, world: this process makes the shards i with i % world == rank.
        verify: read every file and compare its content, even where its size and time are the same.
        prune: drop the tokens of files that have vanished. A modality without any file keeps all.

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
        name: TokenShardWriter(out, modalities[name], tokenizers[name].fingerprint, views, made[name])
        for name in with_tokens
        if data.counts[name] or made[name]
    }
    shards = recorder.shards(config.shard_size)
    mine = [number for number in shards if number % world == rank]
    ours = {shard_path(Path(folder), number).as_posix() for folder in (VIEWS_FOLDER, *writers) for number in mine}
    remove_leftovers(out, ours.__contains__)
    if rank == 0:
        _copy_splits(data.root, out)

    report = TokenizeReport(modalities={name: Tally() for name in writers}, shards=len(mine) * len(writers))
    # How much of an existing shard is left to do shows when it is compared.
    absent = [(data.having(m), recorder.names(n)) for n in mine for m in writers if not writers[m].exists(n)]
    done, total = 0, sum(name in having for having, names in absent for name in names)
    for number in mine:
        names = recorder.names(number)
        there = {name for name in names if data.has(name)}
        report.samples += len(there)
        found = {
            m: Differences.find(data, m, names, w.made(number, names, verify=verify), verify)
            for m, w in writers.items()
        }
        dropped = recorder.dropped(number) - there
        if prune:
            dropped |= _vanished(names, data, out, number)
        recorded = _settle_views(recorder, number, names, dropped, found, data)
        for modality, writer in writers.items():
            spec, differences, tally = modalities[modality].spec, found[modality], report.modalities[modality]
            views_of = {} if spec.alignment is None else recorded.digests_of(spec.alignment)
            differences.look_through(views_of)
            total += len(differences.todo) if writer.exists(number) else 0
            encoder = ShardEncoder(data, modality, tokenizers[modality], recorded.get, views)
            for name in differences.todo:
                encoder.add(name)
                done += 1
                if progress:
                    progress(done, total)
            encoded = encoder.finish()
            kept = differences.kept(names, drop_vanished=prune and data.anywhere(modality))
            after = kept | {
                name: Made(differences.stamps[name], encoder.contents[name], views_of.get(name, 0)) for name in encoded
            }
            if after != differences.before or (data.counts[modality] and not writer.exists(number)):
                rows = {**(writer.ids(number, names) if kept else {}), **encoded}
                writer.write(number, names, {name: (after[name], rows[name]) for name in names if name in after})
                tally.written += 1
            differences.count(tally, encoded)
            tally.left_out += len(encoder.bad)
            report.bad += map(str, encoder.bad)
    complete = all(shard_path(out / VIEWS_FOLDER, number).is_file() for number in shards) and all(
        writer.exists(number) for m, writer in writers.items() if data.counts[m] for number in shards
    )
    if shards and complete:
        open_index(out)
    report.seconds = time.perf_counter() - began
    return report


def _settle_views(
    recorder: ViewRecorder,
    number: int,
    names: Sequence[str],
    dropped: frozenset[str],
    found: Mapping[str, Differences],
    data: AlignedData,
) -> ViewShard:
    aligned = {name: found[name] for name in found if data.modalities[name].spec.alignment is not None}

    def anchors(sample: str) -> list[str]:
        return [m for m, d in aligned.items() if sample in d.before and sample in d.stamps and sample not in d.todo]

    doubtful = frozenset().union(*(differences.todo for differences in aligned.values()))
    return recorder.settle(number, names, dropped, doubtful, anchors)


def _vanished(names: Sequence[str], data: AlignedData, out: Path, number: int) -> frozenset[str]:
    """The samples that have no file, and no tokens of a modality that has none at all or takes no part now."""
    gone = [name for name in names if not any(data.exists(name, modality) for modality in data.modalities)]
    for folder in out.glob("*") if gone else ():
        path = shard_path(folder, number)
        if folder.name != VIEWS_FOLDER and not data.anywhere(folder.name) and path.is_file():
            tokens = TokenShard(path, len(names), names_digest(names)).column("digest")
            kept = {name for name, there in zip(names, tokens.tolist()) if there}
            gone = [name for name in gone if name not in kept]
    return frozenset(gone)


def _copy_splits(root: Readable, out: Path) -> None:
    """Where the raw data goes away, its splits are still known."""
    path = root / SPLITS
    if path.exists() if isinstance(path, Location) else path.is_file():
        content = content_of(path, MAX_SPLITS_BYTES)
        if not (out / SPLITS).is_file() or (out / SPLITS).read_bytes() != content:
            write_atomically(out / SPLITS, content)

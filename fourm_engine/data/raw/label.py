"""Labelling: creates modalities from another one, with pretrained models or geometry provided by their plugins.

In: a root folder, local or remote, with the source modality as files or shards, or data opened by a package. Out:
`<target source>/` in it, or in another local folder, aligned by name: a shard per shard of the source (including those
with all modalities), or a file per file. Existing labels are kept, so that an interrupted run can be continued; shards
and files are written atomically.

Worker processes read and decode ahead, and a thread encodes and writes, while the labeller computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fourm_engine.data.background import Background
from fourm_engine.data.bad_files import BadFile
from fourm_engine.data.raw.catalogue import open_one
from fourm_engine.data.raw.file_bytes import MAX_FILE_BYTES
from fourm_engine.data.raw.folder import Listing
from fourm_engine.data.raw.label_files import LabelWriter, ValueReader, record_labels
from fourm_engine.data.raw.names import shown
from fourm_engine.data.raw.plugin_root import PluginRoot
from fourm_engine.data.raw.root import Root
from fourm_engine.data.raw.source import Source
from fourm_engine.data.workers import ahead, batched, preparing_workers
from fourm_engine.files import remove_leftovers
from fourm_engine.lock import at_work
from fourm_engine.modalities import Modalities
from fourm_plugins import calls
from fourm_plugins.errors import SampleError
from fourm_plugins.modality import Labeller, Modality

#: Number of samples per call of a labeller, and per task of a worker.
BATCH, PART = 64, 8


@dataclass(frozen=True)
class Step:
    """One step: `target` is made from `source`; both are names of modalities."""

    target: str
    source: str


def plan(modalities: Modalities, source: str, targets: Iterable[str], models: Mapping[str, str]) -> list[Step]:
    """The steps that make `targets` from `source`, or from one another if their plugins do so, in an order in which the
    input of each step exists.

    Args:
        models: target -> name or folder of its pretrained model.

    Raises ValueError for unknown names, and for a target that cannot be made from the available modalities."""
    targets = list(dict.fromkeys(targets))
    for name in (source, *targets, *models):
        if name not in modalities:
            raise ValueError(f"no modality {name!r} takes part; there are {', '.join(modalities)}")
    if source in targets:
        raise ValueError(f"{source} is what the others are made from; leave it out of --to")
    if idle := sorted(set(models) - set(targets)):
        raise ValueError(f"a model for {idle[0]}, which is not among --to")
    made_from = {}
    for target in targets:
        wanted = modalities[target].label_sources(models.get(target))
        if not wanted:
            raise ValueError(f"{target} has no labeller: it cannot be made from other modalities")
        there = [name for plugin in wanted for name in (source, *targets) if _provided_by(modalities, name, plugin)]
        if not there:
            needed = " or ".join(wanted)
            raise ValueError(f"{target} is made from {needed}, not {source}; name that with --from, or add it to --to")
        made_from[target] = there[0]
    steps: list[Step] = []
    ready, left = {source}, list(targets)
    while left:
        now = [target for target in left if made_from[target] in ready]
        if not now:
            raise ValueError(f"{', '.join(left)} would be made from one another; label one of them first")
        steps += [Step(target, made_from[target]) for target in now]
        ready.update(now)
        left = [target for target in left if target not in ready]
    return steps


def _provided_by(modalities: Modalities, name: str, plugin: str) -> bool:
    return plugin in (modalities.plugins[name].name.partition("@")[0], name.partition("@")[0])


@dataclass
class LabelReport:
    """The result of a call."""

    labelled: int = 0
    kept: int = 0  # samples of shards and files that existed
    lacking: int = 0  # samples without the source modality
    bad: list[BadFile] = field(default_factory=list)


def label(
    root: Root,
    source: Modality,
    target: Modality,
    labeller: Labeller,
    *,
    out: Path | None = None,
    shares: Modality | None = None,
    among: Iterable[Modality] = (),
    made_by: Mapping[str, Any] | None = None,
    on_error: str = "skip",
    max_bytes: int = MAX_FILE_BYTES,
    workers: int | None = None,
    rank: int = 0,
    world: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> LabelReport:
    """Label `root`.

    Args:
        out: the folder to write to, and to read earlier labels from; None: `root`, if it is a local folder.
        shares: the modality whose shards (or batches of files) divide the work and the output, by default `source`.
            Each of several processes takes every `world`-th, and later steps only need the process's earlier output.
        among: all selected modalities, for shards whose members they share.
        made_by: `model` and `options` of the labeller, recorded next to the labels; see `record_labels`.
        workers: processes that read and decode ahead; None: one per core, for many samples.
        progress: called with (samples done, total) of this process, excluding existing ones.

    Raises ValueError if the source modality has no files, or if the target's folder contains data that is not aligned
    with it or was made differently, and BadFile for an unusable file if `on_error` is "raise"."""
    shares = shares or source
    specs = [modality.spec for modality in (*among, shares, source, target)]
    files = open_one(root, shares.spec, specs, max_bytes=max_bytes)
    if files is None:
        missing = (
            f"{shown(root)}: has no {shares.name}, which"
            if isinstance(root, PluginRoot)
            else f"{root / shares.spec.source}: no such folder; {shares.name}"
        )
        raise ValueError(f"{missing} is what {target.name} is made from")
    made = root if out is None else out
    assert isinstance(made, Path), "labels are written to a local folder"
    folder = made / target.spec.source
    with at_work(folder, needed=False):
        _check_aligned(folder, files, target)
        if made_by is not None:
            record_labels(folder, source, target, **made_by)
        mine = [unit for number, unit in enumerate(_units(files, folder)) if number % world == rank]
        _clean(folder, mine)
        report = LabelReport()
        waiting = list(_left(mine, folder, target, report))
        if not waiting:
            return report
        if source is not shares:
            files = open_one(made, source.spec, specs, max_bytes=max_bytes)
            if files is None:
                where = made / source.spec.source
                raise ValueError(f"{where}: no such folder; {target.name} is made from {source.name}")
        there = frozenset(files.names)
        total, done = sum(len(names) for _, names in waiting), 0
        have = [[name for name in names if name in there] for _, names in waiting]
        samples = sum(map(len, have))
        report.lacking = total - samples
        parts = (part for names in have for batch in batched(names, BATCH) for part in batched(batch, PART))
        workers = preparing_workers(samples) if workers is None else workers
        values = ahead(ValueReader(files, source), parts, workers=workers)
        writer = LabelWriter(folder, target)
        with Background() as thread:
            for (shard, names), present in zip(waiting, have):
                for batch in batched(present, BATCH):
                    read = {name: value for _ in batched(batch, PART) for name, value in next(values).items()}
                    thread.later(writer.encode, list(_label(read, files, target, labeller, on_error, report)))
                thread.later(writer.write, shard)
                done += len(names)
                if progress:
                    progress(done, total)
            thread.finish()
        report.labelled = writer.written
        return report


def _units(files: Source, folder: Path) -> Iterator[tuple[Path | None, list[str]]]:
    """(shard to write, its samples), or (None, a batch of samples) for plain files."""
    for shard, names in files.by_shard().items():
        if shard is not None:
            yield folder / shard, list(names)
        else:
            yield from ((None, batch) for batch in batched(names, BATCH))


def _left(
    mine: Iterable[tuple[Path | None, list[str]]], folder: Path, target: Modality, report: LabelReport
) -> Iterator[tuple[Path | None, list[str]]]:
    """The part of `mine` (see `_units`) that is not labelled yet; the rest is counted in the report."""
    for shard, names in mine:
        if shard is None:
            left = [name for name in names if not _exists(folder, name, target)]
        else:
            left = [] if shard.exists() else names
        report.kept += len(names) - len(left)
        if left:
            yield shard, left


def _check_aligned(folder: Path, files: Source, target: Modality) -> None:
    """Raise ValueError for labels that are not aligned with `files`, since samples would be labelled twice."""
    if not folder.is_dir():
        return
    there = Listing(folder, target.spec.extensions)
    expected = {path.relative_to(folder).as_posix() for path, _ in _units(files, folder) if path is not None}
    if other := sorted(set(there.shards) - expected):
        wanted = "is no shard of what it is made from" if expected else "would be beside labels that are plain files"
        raise ValueError(f"{folder}: {other[0]} {wanted}; move it away")
    if there.files and None not in files.by_shard():
        raise ValueError(f"{folder / there.files[0]}: a plain file beside shards of labels; move it away")


def _clean(folder: Path, mine: Sequence[tuple[Path | None, list[str]]]) -> None:
    expected = {out.relative_to(folder).as_posix() for out, _ in mine if out is not None}
    expected.update(name for out, names in mine if out is None for name in names)
    remove_leftovers(folder, lambda path: path in expected or path.rpartition(".")[0] in expected)


def _label(
    read: Mapping[str, Any], files: Source, target: Modality, labeller: Labeller, on_error: str, report: LabelReport
) -> Iterator[tuple[str, Any]]:
    """(sample, value of the target) for the usable samples of a batch."""

    def skip(bad: BadFile) -> None:
        if on_error == "raise":
            raise bad
        report.bad.append(bad)

    for value in read.values():
        if isinstance(value, BadFile):
            skip(value)
    usable = {name: value for name, value in read.items() if not isinstance(value, BadFile)}
    for name, value in zip(usable, calls.label(labeller, target, list(usable.values())) if usable else (), strict=True):
        if isinstance(value, SampleError):
            skip(BadFile(files.where(name), target.name, str(value)))
        else:
            yield name, value


def _exists(folder: Path, name: str, target: Modality) -> bool:
    return any((folder / f"{name}.{extension}").exists() for extension in target.spec.extensions)

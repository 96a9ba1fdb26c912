"""Labelling: one modality made from another, with the pretrained model or the geometry that its plugin brings.

In: a root folder with the source modality, as files or shards. Out: `root/<target source>/`, aligned by name: a shard
for each shard of the source, or a file for each file. What exists is kept, so that a run that was stopped continues;
every shard and file is written under a temporary name and renamed when it is whole.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fourm_engine.data.aligned import BadFile
from fourm_engine.data.source import MAX_FILE_BYTES, Source, TarSource, open_source
from fourm_plugins.modality import Labeller, Modality, SampleError

BATCH = 64


@dataclass
class LabelReport:
    """What one call did."""

    labelled: int = 0
    kept: int = 0  # samples of shards and files that existed
    bad: list[BadFile] = field(default_factory=list)


def label(
    root: Path,
    source: Modality,
    target: Modality,
    labeller: Labeller,
    *,
    on_error: str = "skip",
    max_bytes: int = MAX_FILE_BYTES,
    rank: int = 0,
    world: int = 1,
) -> LabelReport:
    """Label `root`. Of several processes, each takes every `world`-th shard (or batch of files).

    Raises ValueError where the source modality has no files there, and BadFile for an unusable file if `on_error` is
    "raise"."""
    files = open_source(root, source.spec.source, source.spec.extensions, max_bytes=max_bytes)
    if files is None:
        raise ValueError(
            f"{root / source.spec.source}: no such folder; {source.name} is what {target.name} is made from"
        )
    folder = root / target.spec.source
    folder.mkdir(exist_ok=True)
    report = LabelReport()
    for number, (out, names) in enumerate(_outputs(files, folder)):
        if number % world != rank:
            continue
        if out is None:  # plain files
            wanted = [name for name in names if not _exists(folder, name, target)]
            report.kept += len(names) - len(wanted)
            names = wanted
        elif out.exists():
            report.kept += len(names)
            continue
        labelled = list(_label(files, names, source, target, labeller, on_error, report))
        _write_shard(out, labelled) if out is not None else _write_files(folder, labelled)
        report.labelled += len(labelled)
    return report


def _outputs(files: Source, folder: Path) -> Iterator[tuple[Path | None, list[str]]]:
    """(shard to write, its samples), or (None, a batch of samples) for plain files."""
    if isinstance(files, TarSource):
        for shard, names in files.shards().items():
            yield folder / shard, names
    else:
        for start in range(0, len(files.names), BATCH):
            yield None, files.names[start : start + BATCH]


def _label(
    files: Source,
    names: list[str],
    source: Modality,
    target: Modality,
    labeller: Labeller,
    on_error: str,
    report: LabelReport,
) -> Iterator[tuple[str, dict[str, bytes]]]:
    for start in range(0, len(names), BATCH):
        values = {}
        for name in names[start : start + BATCH]:
            try:
                values[name] = source.read(files.files(name))
            except SampleError as error:
                bad = BadFile(files.where(name), source.name, str(error))
                if on_error == "raise":
                    raise bad from error
                report.bad.append(bad)
        if values:
            for name, value in zip(values, labeller.label(list(values.values())), strict=True):
                yield name, target.write(value)


def _exists(folder: Path, name: str, target: Modality) -> bool:
    return any((folder / f"{name}.{extension}").exists() for extension in target.spec.extensions)


def _write_shard(path: Path, samples: list[tuple[str, dict[str, bytes]]]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with tarfile.open(temporary, "w") as tar:
            for name, files in samples:
                for extension, content in files.items():
                    member = tarfile.TarInfo(f"{name}.{extension}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_files(folder: Path, samples: list[tuple[str, dict[str, bytes]]]) -> None:
    for name, files in samples:
        for extension, content in files.items():
            path = folder / f"{name}.{extension}"
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            try:
                temporary.write_bytes(content)
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)

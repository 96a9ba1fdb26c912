"""Converts any readable data set to WebDataset shards, or to a folder per modality.

In: a root folder. Out: `<out>/shard-00000.tar`, … with members `<sample>.<source>.<extension>` and a fixed number of
samples each, sorted by name; or `<out>/<source>/<sample>.<extension>`. Existing output is kept, so that an interrupted
call can be continued; `<out>/.packed.json` records the input.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fourm_engine.data.bad_files import BadFile
from fourm_engine.data.names_table import lines_of
from fourm_engine.data.raw.catalogue import Catalogue
from fourm_engine.data.raw.names import shown
from fourm_engine.data.raw.sample_shards import Key
from fourm_engine.data.raw.write_shards import write_shard
from fourm_engine.files import remove_leftovers, write_atomically
from fourm_engine.lock import at_work
from fourm_plugins.errors import SampleError

FILE = ".packed.json"
MAX_BYTES = 1 << 16
Progress = Callable[[int, int], None]


@dataclass
class Packed:
    """The result of a call."""

    samples: int = 0
    kept: int = 0  # samples that had been written before
    files: int = 0
    bad: list[BadFile] = field(default_factory=list)
    #: Samples with a dot in their name, which other readers truncate there.
    dotted: list[str] = field(default_factory=list)


def pack(there: Catalogue, out: Path, *, samples_per_shard: int, progress: Progress | None = None) -> Packed:
    """Write the shards. Raises ValueError if `out` holds something else, and CannotWrite."""
    report, names = Packed(), there.names
    with at_work(out):
        _continue(out, there, samples_per_shard, [entry.name for entry in out.iterdir()])
        remove_leftovers(out, lambda path: path.endswith(".tar"), deep=False)
        report.dotted = [name for name in names if "." in name.rpartition("/")[2]]
        for number, start in enumerate(range(0, len(names), samples_per_shard)):
            path = out / f"shard-{number:05d}.tar"
            some = names[start : start + samples_per_shard]
            if path.exists():
                report.kept += len(some)
                continue
            write_shard(path, _members(there, some, report))
            report.samples += len(some)
            if progress:
                progress(start + len(some), len(names))
    return report


def _members(there: Catalogue, names: Iterable[str], report: Packed) -> Iterator[tuple[str, Mapping[str, bytes]]]:
    for name in names:
        if files := _files(there, name, report):
            yield name, {f"{source}.{extension}": content for (source, extension), content in files.items()}


def _files(there: Catalogue, name: str, report: Packed) -> dict[tuple[str, str], bytes]:
    """(source, extension) -> content of the readable files of a sample."""
    files: dict[tuple[str, str], bytes] = {}
    row = there.names.row(name)
    for key, source in there.sources.items():
        if there.present[key][row]:
            try:
                files |= {(key[0], extension): content for extension, content in source.files(name).items()}
            except SampleError as error:
                report.bad.append(BadFile(source.where(name), key[0], str(error)))
    report.files += len(files)
    return files


def unpack(there: Catalogue, out: Path, *, progress: Progress | None = None) -> Packed:
    """Write each file of each sample. `out` may contain folders of other modalities, such as labels. Raises ValueError
    if it contains other data of these, or shards, and CannotWrite."""
    report, names = Packed(), there.names
    folders = {source.partition("/")[0] for source, _ in there.sources}
    with at_work(out):
        inside = [e.name for e in out.iterdir() if e.name in folders or "." in folders or e.suffix == ".tar"]
        _continue(out, there, None, inside)
        remove_leftovers(out, lambda path: True)
        for number, name in enumerate(names):
            row = there.names.row(name)
            ready = [k for k in there.sources if not there.present[k][row] or _written(there, k, name, out)]
            if len(ready) == len(there.sources):
                report.kept += 1
                continue
            for (source, extension), content in _files(there, name, report).items():
                path = out / source / f"{name}.{extension}"
                if not path.exists():
                    write_atomically(path, content)
            report.samples += 1
            if progress:
                progress(number + 1, len(names))
    return report


def _written(there: Catalogue, key: Key, name: str, out: Path) -> bool:
    """Whether the files of a sample exist."""
    return all((out / key[0] / f"{name}.{extension}").exists() for extension in there.sources[key].extensions_of(name))


def _continue(out: Path, there: Catalogue, samples_per_shard: int | None, inside: Iterable[str]) -> None:
    """Record the input of `out`. Raises ValueError if its contents, `inside`, were made from another."""
    if isinstance(there.root, Path) and out.resolve() == there.root.resolve():
        raise ValueError(f"{shown(out)}: is the data itself; choose another folder to write to")
    now = {
        "samples": len(there.names),
        "names": hashlib.sha256(lines_of(there.names)).hexdigest()[:16],
        "sources": [
            [source, list(extensions), int(there.present[source, extensions].sum())]
            for source, extensions in sorted(there.sources)
        ],
        "samples_per_shard": samples_per_shard,
    }
    path = out / FILE
    if held := [name for name in inside if not name.startswith(".")]:
        try:
            before = json.loads(path.read_bytes()[:MAX_BYTES])
        except (OSError, ValueError, RecursionError):
            raise ValueError(f"{shown(out)}: holds {shown(min(held))}; choose a folder that is empty or new") from None
        differs = [k for k in now if not isinstance(before, dict) or before.get(k) != now[k]]
        if differs:
            what = ", ".join(differs)
            raise ValueError(f"{shown(out)}: was begun with other data or settings ({what}); choose another folder")
    write_atomically(path, json.dumps(now) + "\n")

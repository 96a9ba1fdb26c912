"""The files of labelling: reads the samples to label, in worker processes, writes the labels, in a thread, and records
how they were made, so that they are not mixed with others.

In: samples of the source. Out: their values, the shards or files of the labels, and `.made.json`, which readers skip.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fourm_engine.data.bad_files import BadFile
from fourm_engine.data.raw.source import Source
from fourm_engine.data.raw.write_shards import write_shard
from fourm_engine.files import read_object, write_atomically
from fourm_engine.identity import Difference, compare, facts, refuse
from fourm_plugins import calls
from fourm_plugins.errors import SampleError
from fourm_plugins.modality import Modality
from fourm_plugins.notes import reading

FILE = ".made.json"
MAX_BYTES = 1 << 20


class ValueReader:
    """`reader[names]`: name -> value, or the BadFile raised instead."""

    def __init__(self, files: Source, source: Modality) -> None:
        self.files, self.source = files, source

    def __getitem__(self, names: Sequence[str]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name in names:
            try:
                with reading(partial(self.files.where, name)):
                    values[name] = self.source.read(self.files.files(name))
            except SampleError as error:
                values[name] = BadFile(self.files.where(name), self.source.name, str(error))
        return values


class LabelWriter:
    """Encodes labels and writes them, in a thread of `label`."""

    def __init__(self, folder: Path, target: Modality) -> None:
        self.folder, self.target = folder, target
        #: Number of samples.
        self.written = 0
        self._encoded: list[tuple[str, dict[str, bytes]]] = []

    def encode(self, labels: Sequence[tuple[str, Any]]) -> None:
        """Add labels to the next shard or files."""
        self._encoded += [(name, calls.write(self.target, value)) for name, value in labels]

    def write(self, out: Path | None) -> None:
        """Write the added labels to the shard `out`, or, if it is None, to one file each."""
        samples, self._encoded = self._encoded, []
        if out is not None:
            below = out.parent.relative_to(self.folder).as_posix() + "/"  # names in a shard are relative to its folder
            write_shard(out, ((name.removeprefix(below), files) for name, files in samples))
        for name, files in samples if out is None else ():
            for extension, content in files.items():
                write_atomically(self.folder / f"{name}.{extension}", content)
        self.written += len(samples)


def record_labels(
    folder: Path, source: Modality, target: Modality, *, model: str | None, options: Mapping[str, Any]
) -> None:
    """Record in the target's `folder` how its labels are made. Raises ValueError if the existing ones were made
    differently."""
    settings = facts(source) | facts(target)
    now = {"--from": source.name, f"--model {target.name}": model, **settings}
    now |= {f"--option {target.name}.{key}": value for key, value in options.items()}
    now = json.loads(json.dumps(now))
    path = folder / FILE
    labelled = folder.is_dir() and any(not file.name.startswith(".") for file in folder.iterdir())
    if labelled and path.is_file():
        made_by = read_object(path, most=MAX_BYTES, what="how labels were made", remedy="remove it")
        differences = [Difference(key, *pair) for key, pair in compare(made_by, now).items()]
        refuse(differences, where=path, remedy=f"move {folder} away to label again")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(now, indent=1) + "\n")

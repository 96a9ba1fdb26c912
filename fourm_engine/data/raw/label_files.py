"""Reads the samples to label, in worker processes, and writes the labels, in a thread.

In: samples of the source. Out: their values, and the shards or files of the labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fourm_engine.data.bad_files import BadFile
from fourm_engine.data.raw.source import Source
from fourm_engine.data.raw.write_shards import write_shard
from fourm_engine.files import write_atomically
from fourm_plugins import calls
from fourm_plugins.errors import SampleError
from fourm_plugins.modality import Modality
from fourm_plugins.notes import reading


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

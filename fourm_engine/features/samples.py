"""Samples for an encoder, from a data set or a folder with a sub-folder per class.

In: an encoder and the data. Out: its tokens of each sample, in batches. An unusable file is skipped with a warning.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from fourm_engine.data.bad_files import BadFile, BadFiles
from fourm_engine.data.config import DataConfig, source_of
from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.raw.folder import FolderSource, Listing
from fourm_engine.data.raw.pipes import open_root
from fourm_engine.features.encoder import ReadSample
from fourm_engine.generate.inputs import InputReader
from fourm_engine.modalities import host_of
from fourm_plugins.errors import SampleError, one_line
from fourm_plugins.view import View


class Reader(Protocol):
    """An `Encoder`, or anything that reads samples like one."""

    reader: InputReader

    @property
    def inputs(self) -> Mapping[str, str]:
        """Name -> modality that shows its values."""

    def read(self, inputs: Mapping[str, Any]) -> ReadSample: ...


class Samples(Protocol):
    @property
    def names(self) -> Sequence[str]: ...

    def read(self, name: str) -> list[ReadSample]:
        """The tokens of a sample, once for each alternative that counts; empty if it has no usable input."""

    def stamp(self, name: str) -> str:
        """A fingerprint of a sample's files, equal as long as they are unchanged."""


class DataSamples:
    """Samples of a data set, anything that `data.train` may name, each with whichever of the encoder's inputs it has.
    `alternatives`: read each of a sample's alternatives, such as captions, not only the first."""

    def __init__(self, encoder: Reader, root: str, split: str | None = None, *, alternatives: bool = False) -> None:
        self.encoder, self.alternatives = encoder, alternatives
        modalities = {name: encoder.reader.modalities[name] for name in encoder.inputs.values()}
        there = open_root(source_of(root), DataConfig(), host_of(encoder.reader.modalities))
        self.data = AlignedData(there.folder, modalities, split, shards=there.shards)
        self.names: Sequence[str] = self.data.names

    def read(self, name: str) -> list[ReadSample]:
        values, count = dict[str, Any](), dict[str, int]()
        for modality in sorted(self.data.has(name)):
            try:
                values[modality] = self.data.value(name, modality)
                count[modality] = self.data.alternatives(name, modality) if self.alternatives else 1
            except BadFile as bad:
                self.data.skip(name, bad)
        if not values:
            return []
        try:
            samples = []
            for number in range(max(count.values(), default=1)):
                several = [modality for modality, n in count.items() if n > 1]
                chosen = {m: self.data.augment(name, m, values[m], View(variant=number)) for m in several}
                samples.append(self.encoder.read(values | chosen))
        except ValueError as error:
            where = self.data.where(name, min(values))
            self.data.skip(name, BadFile(where, ", ".join(sorted(values)), str(error)))
            return []
        return [sample for sample in samples if sample.shown]

    def stamp(self, name: str) -> str:
        return " ".join(f"{modality} {self.data.stamp(name, modality)}" for modality in sorted(self.data.has(name)))


class ClassFolder:
    """`folder/<class>/<any sub-folders>/<file>` for one input of the encoder. `names` start with the class. Raises
    ValueError if there is no such file, and for a file outside the class folders."""

    def __init__(self, encoder: Reader, folder: Path, name: str) -> None:
        self.encoder, self.name = encoder, name
        self.modality = encoder.reader.modalities[encoder.inputs[name]]
        if not folder.is_dir():
            raise ValueError(f"{folder}: no such folder; it should have a sub-folder per class")
        self._source = FolderSource(Listing(folder, self.modality.spec.extensions))
        self._bad = BadFiles("skip")
        self.names: Sequence[str] = self._source.names
        for sample in self.names:
            if "/" not in sample:
                raise ValueError(
                    f"{self._source.where(sample)}: lies in no class; a folder of two classes and more has a "
                    "sub-folder for each, or give --labels"
                )

    def read(self, name: str) -> list[ReadSample]:
        try:
            return [self.encoder.read({self.name: self.modality.read(self._source.files(name))})]
        except (SampleError, ValueError) as error:
            self._bad.add(name, BadFile(self._source.where(name), self.name, one_line(error)))
            return []

    def stamp(self, name: str) -> str:
        return self._source.stamp(name)


def batches(samples: Samples, names: Sequence[str], size: int) -> Iterator[tuple[list[tuple[str, ReadSample]], int]]:
    """([(name, sample)], number of names read so far) for the usable `names`, `size` at a time."""
    batch: list[tuple[str, ReadSample]] = []
    for done, name in enumerate(names, start=1):
        for sample in samples.read(name):
            batch.append((name, sample))
            if len(batch) == size:
                yield batch, done
                batch = []
    if batch:
        yield batch, len(names)

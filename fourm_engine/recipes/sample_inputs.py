"""Inputs of many samples for generation: folders whose files pair up by name, a data set, or lines of a JSON file.

In: arguments of the command line. Out: `SampleInputs`: the names of the samples, and the inputs of each. Only the names
are kept in memory; for an indexed data set or lines, only a few bytes per sample.
"""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fourm_engine.data.config import DataConfig, source_of
from fourm_engine.data.names_table import LazyNames, Names
from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.raw.local_sources import open_source
from fourm_engine.data.raw.names import is_litter, plain, shown
from fourm_engine.data.raw.root import Root
from fourm_engine.data.raw.source import Source
from fourm_engine.generate.input_types import TEXT, Typed
from fourm_engine.recipes.generated_record import hash_of
from fourm_plugins.counting import counted
from fourm_plugins.inputs import looks_like_path
from fourm_plugins.modality import Modality

#: Limits in bytes of a line and of a sample's name; file systems allow 255 for a name with its extension.
MAX_LINE, MAX_NAME = 1 << 20, 200
_RESERVED = ("name", "seed")
#: The key of a sample's mask among its inputs, which no modality is called, and the extensions of masks.
MASK, MASKS = "--mask", ("png", "jpg", "jpeg", "webp")
_Find = Callable[[str], Modality]


@dataclass(frozen=True)
class Given:
    """The inputs of one sample: modality -> {extension: content} of its files, or a user's value. `seed`: the sample's
    seed; None to derive it from the name."""

    values: dict[str, Any]
    seed: int | None = None


@dataclass(frozen=True)
class _OfData:
    """The files of one modality of a data set."""

    data: AlignedData
    modality: str

    def files(self, name: str) -> dict[str, bytes]:
        return self.data.files(name, self.modality)

    def stamp(self, name: str) -> str:
        return self.data.stamp(name, self.modality)

    def where(self, name: str) -> str:
        return self.data.where(name, self.modality)


@dataclass
class FileInputs:
    """Samples with a file in each of `sources` (modality as given -> its files), and `common` inputs for all."""

    sources: Mapping[str, Source | _OfData]
    names: Sequence[str]
    #: Number of samples that lack an input.
    lacking: int
    common: dict[str, Any] = field(default_factory=dict)
    #: Remarks on the files.
    notes: Sequence[str] = ()
    #: Of the data set.
    root: Root | None = None

    @classmethod
    def of_folders(cls, folders: Mapping[str, Path], find: _Find, common: Mapping[str, Any]) -> FileInputs:
        """`folders`: modality as given -> its folder; `MASK` -> a folder of pictures. Raises ValueError for a folder
        without files of its modality, and if no sample is in all folders."""
        sources: dict[str, Source] = {}
        for name, folder in folders.items():
            extensions = MASKS if name == MASK else find(name).spec.extensions
            source = open_source(folder.parent, folder.name, extensions)
            assert source is not None  # the caller has seen the folder
            sources[name] = source
        sets = [set(source.names) for source in sources.values()]
        every = set.intersection(*sets)
        if not every:
            example = " and ".join(shown(source.where(source.names[0])) for source in sources.values())
            raise ValueError(f"no sample is in all folders: files pair up by name without extension, as in {example}")
        notes = [str(note) for source in sources.values() for note in source.notes]
        return cls(sources, sorted(every), len(set.union(*sets)) - len(every), dict(common), notes)

    @classmethod
    def of_data(
        cls, root: str, split: str | None, wanted: Sequence[str], find: _Find, common: Mapping[str, Any]
    ) -> FileInputs:
        """Some modalities of a data set (docs/data.md). Raises ValueError if there is no such data set, or no sample
        with all of `wanted`."""
        modalities = {name: find(name) for name in wanted}
        readers = {modality.name: modality for modality in modalities.values()}
        config = DataConfig(val=source_of(root), val_split=split)
        data = AlignedData.from_config(readers, config, training=False)
        names = data.names
        for name in readers:
            names = Names(names.table, np.intersect1d(names.rows, data.having(name).rows))
        if not len(names):
            raise ValueError(f"{data.root}: no sample has {' and '.join(wanted)}")
        sources = {name: _OfData(data, modality.name) for name, modality in modalities.items()}
        return cls(sources, names, len(data.names) - len(names), dict(common), root=data.root)

    def given(self, name: str) -> Given:
        """Read the files of a sample. Raises SampleError (BadFile) for unreadable files."""
        return Given({key: source.files(name) for key, source in self.sources.items()} | self.common)

    def stamp(self, name: str) -> str:
        """A fingerprint of the inputs that changes with them: sizes and times of files, and all typed text."""
        return repr([source.stamp(name) for source in self.sources.values()] + sorted(map(repr, self.common.items())))

    def where(self, name: str) -> str:
        """The sample's files, for messages."""
        return ", ".join(source.where(name) for source in self.sources.values())


class LineInputs(LazyNames):
    """One sample per line, `{NAME: "a.jpg", OTHER: "a red cube", "seed": 3, "name": "a"}`: for each modality a path
    (relative to the file's folder), text, or JSON as in the modality's files. "name" defaults to the line's number;
    "seed" derives from the name. Also the sequence of the names, each read on demand."""

    def __init__(self, path: Path, find: _Find, common: Mapping[str, Any]) -> None:
        """Reads all lines once. Raises ValueError, naming the line, for a line that is not a sample."""
        self.path, self.common, self.lacking = Path(path), dict(common), 0
        self.notes: Sequence[str] = ()
        begins, lines, hashed, at = array("q"), array("q"), array("Q"), 0
        self._extensions: dict[str, tuple[tuple[str, ...], bool]] = {}
        with open(self.path, "rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE + 1), b""), start=1):
                if line.strip():
                    name, values, _ = self._parsed(number, line)
                    for key in {*values, *self.common} - self._extensions.keys():
                        try:
                            modality = find(key)
                        except ValueError as error:
                            raise ValueError(f"{self._at(number)}: {error}") from None
                        self._extensions[key] = modality.spec.extensions, modality.accepts_text
                    begins.append(at)
                    lines.append(number)
                    hashed.append(hash_of(name))
                at += len(line)
        if not begins:
            raise ValueError(f'{self.path}: no lines; write one per sample, {{"NAME": "FILE or words", …}}')
        self._begins, self._lines = np.array(begins, np.int64), np.array(lines, np.int64)
        hashes = np.array(hashed, np.uint64)
        order = np.argsort(hashes, kind="stable")
        self._hashes, self._order = hashes[order], order
        if len(twice := np.flatnonzero(self._hashes[1:] == self._hashes[:-1])):
            one, other = (int(self._lines[order[twice[0] + k]]) for k in (0, 1))
            raise ValueError(f"{self._at(other)}: same name as line {one}; give each sample another name")
        #: Modalities that any line gives.
        self.keys = sorted(self._extensions)

    @property
    def names(self) -> Sequence[str]:
        return self

    def name(self, row: int) -> str:
        return self._parsed(int(self._lines[row]), self._line(row))[0]

    def __len__(self) -> int:
        return len(self._begins)

    def given(self, name: str) -> Given:
        row = self._row(name)
        _, values, seed = self._parsed(int(self._lines[row]), self._line(row))
        return Given({key: self._value(key, value) for key, value in (self.common | values).items()}, seed)

    def stamp(self, name: str) -> str:
        line = self._line(self._row(name))
        files = []
        for key, value in self._parsed(0, line)[1].items():
            if isinstance(path := self._value(key, value), Path):
                try:
                    files.append((status := os.stat(path)).st_size)
                    files.append(status.st_mtime_ns)
                except OSError:
                    files.append(-1)
        return repr((line.strip(), files, sorted(map(repr, self.common.items()))))

    def where(self, name: str) -> str:
        return self._at(int(self._lines[self._row(name)]))

    def _at(self, number: int) -> str:
        return f"{shown(self.path)}, line {number}"

    def _row(self, name: str) -> int:
        return int(self._order[np.searchsorted(self._hashes, np.uint64(hash_of(name)))])

    def _line(self, row: int) -> bytes:
        with open(self.path, "rb") as file:
            file.seek(int(self._begins[row]))
            return file.readline(MAX_LINE + 1)

    def _parsed(self, number: int, line: bytes) -> tuple[str, dict[str, Any], int | None]:
        """(name, inputs, seed)."""
        if len(line) > MAX_LINE:
            raise ValueError(f"{self._at(number)}: longer than {MAX_LINE} bytes; give long texts as files")
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{self._at(number)}: not JSON: {error}") from None
        if not isinstance(entry, dict):
            raise ValueError(f'{self._at(number)}: not an object {{"NAME": "FILE or words", …}}')
        name, seed = entry.get("name", f"{number:06d}"), entry.get("seed")
        if why := wrong_name(name) if isinstance(name, str) else "a text":
            raise ValueError(f"{self._at(number)}: name is {name!r:.60}; expected {why}")
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 1 << 63):
            raise ValueError(f"{self._at(number)}: seed is {seed!r:.60}; expected a whole number from 0 on")
        values = {key: value for key, value in entry.items() if key not in _RESERVED and value is not None}
        if twice := sorted(values.keys() & self.common.keys()):
            raise ValueError(f"{self._at(number)}: {twice[0]} is given with --input, too; leave one out")
        return plain(name), values, seed

    def _value(self, key: str, value: Any) -> Any:
        """A path, text or an object, as `Modality.value` takes it."""
        if not isinstance(value, str) or key in self.common:
            return value
        if value.startswith(TEXT):
            return Typed(value[len(TEXT) :])
        extensions, typed = self._extensions[key]
        return self.path.parent / value if looks_like_path(value, extensions, typed=typed) else Typed(value)


#: Names of samples, and the inputs of each. Picklable, and the same in every process.
SampleInputs = FileInputs | LineInputs


def wrong_name(name: str) -> str:
    """The reason why a sample cannot have this name, as files of that name are written; '' if it can."""
    parts = name.split("/")
    if not name or any(part in ("", ".", "..") for part in parts) or "\\" in name:
        return "a path below the folder of results, without '..'"
    if is_litter(name):
        return "a name that is not hidden: readers skip those"
    if len(os.fsencode(plain(name).encode("utf-8", "replace"))) > MAX_NAME or not name.isprintable():
        return f"at most {MAX_NAME} bytes that can be printed"
    return ""


def describe(inputs: SampleInputs) -> str:
    """A summary such as "12 samples (3 more lack an input)"."""
    more = f" ({inputs.lacking} more {'lacks' if inputs.lacking == 1 else 'lack'} an input)" if inputs.lacking else ""
    return counted(len(inputs.names), "sample") + more

"""Source `parquet`: a folder of Parquet files, as Hugging Face `datasets` writes them; a column is a modality.

`parquet:FOLDER?MODALITY=COLUMN&…` gives a sample per row, called `<file>/<row>`. Row groups are read whole, and the
latest ones are kept.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from fourm_plugins import ModalitySpec, SampleError, SampleSource
from fourm_plugins.errors import one_line
from fourm_plugins.extras import optional
from fourm_plugins.inputs import sniff
from fourm_plugins.suggest import did_you_mean

#: Bytes of decoded row groups that a process keeps, and the largest one allowed.
KEPT, LARGEST = 1 << 28, 1 << 31
OPEN_FILES = 32
#: A missing image.
_NOTHING = {"bytes": None, "path": None}
_PART = re.compile(r"^(.*?)[-_.]?\d+(-of-\d+)?$")


class ParquetSource(SampleSource):
    """`columns` maps modality, or the source that several modalities read, to column; the default is the column named
    like the modality, or like its source."""

    def __init__(self, location: str, specs: Sequence[ModalitySpec], **columns: str) -> None:
        self._pq = optional("pyarrow.parquet", what="Parquet files need", install="fourm-parquet")
        self.root = Path(location)
        paths = [self.root] if self.root.is_file() else sorted(self.root.rglob("*.parquet"))
        self.root = self.root.parent if self.root.is_file() else self.root
        below = {path: path.relative_to(self.root) for path in paths if path.is_file()}
        self._paths = {
            path.with_suffix("").as_posix(): full
            for full, path in below.items()
            if not any(part.startswith(".") for part in path.parts)
        }
        if not self._paths:
            raise ValueError("no .parquet files there")
        self._file = lru_cache(OPEN_FILES)(self._open)
        self._groups: OrderedDict[tuple[str, int, str], Any] = OrderedDict()
        schema = self._file(next(iter(self._paths))).schema_arrow
        types = {column: kind[0] if isinstance(kind, list) else kind for column, kind in _types(schema).items()}
        #: Column of classes, or of lists of them -> their names.
        self._classes = {column: kind for column, kind in types.items() if isinstance(kind, tuple)}
        self._specs = {spec.name: spec for spec in specs}
        present = list(schema.names)
        # Of files that differ, the first need not have all.
        if not present or not set(columns.values()).issubset(present):
            present = list(dict.fromkeys(name for file in self._paths for name in self._file(file).schema_arrow.names))
        for modality, column in columns.items():
            if column not in present:
                raise ValueError(f"{modality}={column}: no such column; {did_you_mean(column, present)}")
        self._columns = {
            name: next((c for n in (name, spec.source) for c in (columns.get(n), n) if c in present), None)
            for name, spec in self._specs.items()
        }
        if specs and not any(self._columns.values()):
            raise ValueError(
                f"none of the columns {', '.join(present)} is called like one of {', '.join(self._specs)}; add "
                f"?MODALITY=COLUMN, such as ?{_likely(schema, specs) or f'{specs[0].name}=COLUMN'}"
            )
        read = {*self._specs, *(spec.source for spec in specs)}
        if apart := [name for name in columns if name not in read]:
            self.notes = [f"no modality {name!r} takes part, column {columns[name]} is not read" for name in apart]

    @cached_property
    def names(self) -> list[str]:
        return [f"{file}/{row:06d}" for file in self._paths for row in range(self._file(file).metadata.num_rows)]

    @property
    def splits(self) -> dict[str, list[str]]:
        """Splits by the files' names, or by their folders' if these are only numbers."""
        splits: dict[str, list[str]] = {}
        for name in self.names:
            *folders, stem, _ = name.split("/")
            part = _PART.match(stem)
            split = (part[1] if part else stem) or (folders[-1] if folders else "train")
            splits.setdefault(split, []).append(name)
        return splits

    def present(self, modality: str) -> np.ndarray:
        parts, column = [np.zeros(0, bool)], self._columns[modality]
        for file in self._paths:
            metadata = self._file(file).metadata
            if column in self._file(file).schema_arrow.names:
                parts += [self._present(file, group, column) for group in range(metadata.num_row_groups)]
            else:
                parts.append(np.zeros(metadata.num_rows, bool))
        return np.concatenate(parts)

    def _present(self, file: str, group: int, column: str) -> np.ndarray:
        about = self._file(file).metadata.row_group(group)
        leaves = {about.column(i).path_in_schema: about.column(i).statistics for i in range(about.num_columns)}
        known = leaves.get(f"{column}.bytes") or leaves.get(column)
        if known is not None and known.has_null_count and not known.null_count and column not in self._classes:
            return np.ones(about.num_rows, bool)
        try:
            values = self._group(file, group, column)
        except SampleError:  # met again, and told with the rows, where they are read
            return np.ones(about.num_rows, bool)
        if column in self._classes:
            return np.array([_classed(v, self._classes[column]) is not None for v in values.to_pylist()], bool)
        return np.array([bool(value.is_valid) and value.as_py() != _NOTHING for value in values], bool)

    def files(self, name: str, modality: str) -> Mapping[str, bytes]:
        file, row = self._row(name)
        column, extensions = self._columns[modality], self._specs[modality].extensions
        assert column is not None
        about = self._file(file).metadata
        ends = list(accumulate(about.row_group(group).num_rows for group in range(about.num_row_groups)))
        group = int(np.searchsorted(ends, row, side="right"))
        value = self._group(file, group, column)[row - (ends[group - 1] if group else 0)].as_py()
        if isinstance(value, dict) and value.keys() == {"bytes", "path"}:
            if value["bytes"] is None:
                raise SampleError(f"has no bytes, but a path, {value['path']}; embed the files")
            value = value["bytes"]
        if isinstance(value, bytes):
            return {sniff(value, extensions): value}
        value = _classed(value, self._classes[column]) if column in self._classes else value
        if isinstance(value, list) and value and all(isinstance(text, str) for text in value) and "txt" in extensions:
            value = "\n".join(" ".join(text.split()) for text in value)
        for extension in ("txt", "json") if isinstance(value, str) else ("json", "txt"):
            if extension in extensions:
                return {extension: (value if isinstance(value, str) else json.dumps(value, default=str)).encode()}
        raise SampleError(f"of type {type(value).__name__}, of which no file .{', .'.join(extensions)} can be made")

    def column(self, name: str) -> dict[str, Any]:
        values = dict[str, Any]()
        for file in self._with(name):
            opened = self._file(file)
            kind = _types(opened.schema_arrow)[name]
            several = isinstance(kind, list) and isinstance(kind[0], tuple)
            for row, value in enumerate(opened.read(columns=[name]).column(0).to_pylist()):
                if (named := _classed(value, kind[0]) if several else _named(value, kind)) is not None:
                    values[f"{file}/{row:06d}"] = named
        return values

    def column_type(self, name: str) -> Any:
        return _types(self._file(self._with(name)[0]).schema_arrow)[name]

    def _with(self, column: str) -> list[str]:
        """The files that have a column. Raises ValueError if none has."""
        names = {file: self._file(file).schema_arrow.names for file in self._paths}
        if files := [file for file, present in names.items() if column in present]:
            return files
        present = dict.fromkeys(name for names_of in names.values() for name in names_of)
        raise ValueError(f"no column {column!r}; {did_you_mean(column, present)}")

    def where(self, name: str, modality: str) -> str:
        file, row = self._row(name)
        return f"{file}.parquet, row {row}, column {self._columns[modality]}"

    def stamp(self, name: str, modality: str) -> str:
        try:
            about = self._paths[self._row(name)[0]].stat()
        except OSError:
            return ""
        return f"{about.st_size}:{about.st_mtime_ns}"

    @staticmethod
    def _row(name: str) -> tuple[str, int]:
        file, _, row = name.rpartition("/")
        return file, int(row)

    def _open(self, file: str) -> Any:
        try:
            return self._pq.ParquetFile(self._paths[file])
        except (ValueError, OSError) as error:  # of pyarrow, too
            raise ValueError(
                f"{self._paths[file]}: cannot be read: {one_line(error)}; copy it anew, or remove it"
            ) from None

    def _group(self, file: str, group: int, column: str) -> Any:
        """The values of a column in a row group."""
        key = file, group, column
        if key not in self._groups:
            about = self._file(file).metadata.row_group(group)
            sizes = (about.column(i) for i in range(about.num_columns))
            size = sum(c.total_uncompressed_size for c in sizes if c.path_in_schema.split(".")[0] == column)
            if size > LARGEST:
                raise SampleError(f"row group {group} has {size} bytes, more than {LARGEST}; write smaller ones")
            try:
                self._groups[key] = self._file(file).read_row_group(group, columns=[column]).column(0)
            except (ValueError, OSError) as error:
                raise SampleError(f"row group {group} cannot be read: {one_line(error)}") from None
            while len(self._groups) > 1 and sum(values.nbytes for values in self._groups.values()) > KEPT:
                self._groups.popitem(last=False)
        self._groups.move_to_end(key)
        return self._groups[key]


def _likely(schema: Any, specs: Sequence[ModalitySpec]) -> str:
    """A modality for the pictures, and one for the texts, as settings: `rgb=image&caption=text`."""
    kinds = {"struct<bytes": "jpg", "binary": "jpg", "large_binary": "jpg", "string": "txt", "large_string": "txt"}
    pairs: dict[str, str] = {}  # extension -> setting
    for column in schema:
        extension = next((end for kind, end in kinds.items() if str(column.type).startswith(kind)), "")
        name = next((spec.name for spec in specs if extension in spec.extensions), None)
        if name is not None:
            pairs.setdefault(extension, f"{name}={column.name}")
    return "&".join(pairs.values())


def _classed(value: Any, classes: tuple[str, ...]) -> Any:
    """The name of an id, or the names of a list of them without those of no class; None for no class."""
    if isinstance(value, list):
        return [name for name in (_named(one, classes) for one in value) if name is not None]
    return _named(value, classes)


def _named(value: Any, kind: Any) -> Any:
    """A value of this type, with the names of the classes in place of their ids; None for -1, which is no class."""
    if isinstance(kind, list) and isinstance(value, list):
        return [_named(one, kind[0]) for one in value]
    if isinstance(kind, dict) and isinstance(value, dict):
        return {field: _named(one, kind.get(field)) for field, one in value.items()}
    if not isinstance(kind, tuple) or not isinstance(value, int):
        return value
    if value < 0:
        return None
    return kind[value] if value < len(kind) else str(value)


def _types(schema: Any) -> dict[str, Any]:
    """Column -> the type of its values, as `SampleSource.column_type` describes it; `datasets` writes the names of
    classes beside the columns."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        features = None
    return {column.name: _type(column.type, _part(features, column.name)) for column in schema}


def _part(feature: Any, name: str) -> Any:
    return feature.get(name) if isinstance(feature, dict) else None


def _type(kind: Any, feature: Any) -> Any:
    """`feature`: what `datasets` says of it, if anything."""
    word = str(kind).partition("<")[0]
    if word.endswith("list"):
        return [_type(kind.value_type, _part(feature, "feature"))]
    if word == "struct":
        fields = [kind.field(i) for i in range(kind.num_fields)]
        if isinstance(inner := _part(feature, "feature"), dict):  # of old, a list of fields is a list in each field
            feature = {name: {"feature": one} for name, one in inner.items()}
        return {field.name: _type(field.type, _part(feature, field.name)) for field in fields}
    if word == "dictionary":
        return _type(kind.value_type, feature)
    names = _part(feature, "names")
    if word.startswith(("int", "uint")):
        return tuple(map(str, names)) if isinstance(names, list) else "integer"
    words = {"string": "text", "large_string": "text", "float": "number", "double": "number", "halffloat": "number"}
    return words.get(word, word)

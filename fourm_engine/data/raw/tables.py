"""Tables: files with one row per sample, as JSON lines, JSON, CSV or TSV.

In: a file next to the folders of a data set. Out: its columns, and the texts of one column by sample, written to tars
with a file per sample. Sizes of lines, files and names are bounded; nothing is written outside the folder.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any, AnyStr, TypeGuard

from fourm_engine.data.raw.names import plain, shown
from fourm_engine.data.raw.write_shards import write_shard
from fourm_engine.files import replacing_folder

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
#: Maximum size in bytes of a table; of a single JSON document, which is held in memory; of a line.
MAX_BYTES, MAX_JSON, MAX_LINE = 16 << 30, 1 << 30, 1 << 20
#: Maximum number of characters of a sample's name, and of a text; of texts per sample.
MAX_NAME, MAX_TEXT, MAX_TEXTS = 512, 100_000, 1000
#: Names of the column with sample names, in order of preference.
NAME_COLUMNS = (
    *("file_name", "filename", "file", "image", "img", "image_path", "filepath", "path", "name", "key", "sample"),
    *("image_id", "id"),
)
SAMPLES_PER_SHARD = 10_000
#: Keys that must be unique among the entries of a part of COCO's JSON.
_DISTINCT = (
    ("images", ("id",)),
    ("images", ("file_name",)),
    ("categories", ("id",)),
    ("categories", ("name",)),
    ("annotations", ("image_id", "category_id", "bbox", "id", "area", "iscrowd")),
)
_LOOKED = 50  # rows from which the columns are determined


@dataclass
class Texts:
    """The texts of a column. Of the `rows` read, `unmatched` name no known sample, such as `example`."""

    samples: dict[str, list[str]] = field(default_factory=dict)
    rows: int = 0
    unmatched: int = 0
    example: str = ""


class Table:
    """A table. `name_column` contains the sample names; `columns` contain texts, under their names in the file.

    Raises ValueError, one line, for a file that is not a table or has no column of names."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        if (size := self.path.stat().st_size) > MAX_BYTES:
            raise ValueError(f"{shown(path)}: {size >> 20} MiB; at most {MAX_BYTES >> 20} are read; split it")
        first = list(islice(self.rows(), _LOOKED))
        written: dict[str, str] = {}
        for row in first:
            for key in row:
                written.setdefault(key.strip().lower().replace(" ", "_").replace("-", "_"), key)
        name = next((written[key] for key in NAME_COLUMNS if key in written), None)
        if name is None:
            there = ", ".join(shown(key) for key in list(written.values())[:8]) or "none"
            usual = ", ".join(NAME_COLUMNS[:4])
            raise ValueError(f"{shown(path)}: no column names the samples; call it {usual} or name (there: {there})")
        self.name_column = name
        self.columns = [
            key
            for key in written.values()
            if key != name and any(_texts(row.get(key)) for row in first) and not any(_other(row, key) for row in first)
        ]

    def rows(self) -> Iterator[Mapping[str, Any]]:
        """Iterate over the rows. Raises ValueError naming the first invalid line."""
        try:
            yield from _READERS[self.path.suffix.lower()](self.path)
        except OSError as error:
            raise ValueError(f"{shown(self.path)}: cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ValueError(f"{shown(self.path)}: not UTF-8; save it as UTF-8 (iconv -t UTF-8)") from None

    def texts(self, column: str, samples: Collection[str]) -> Texts:
        """All texts of each of `samples` that a row names; texts of several rows are concatenated. A row may name a
        sample with its file's extension and folders."""
        matched = Texts()
        for row in self.rows():
            texts = _texts(row.get(column))
            if not texts or row.get(self.name_column) in (None, ""):
                continue
            matched.rows += 1
            called = plain(str(row[self.name_column]))[: MAX_NAME + 1]
            name = next((name for name in _names(called) if name in samples), None)
            if name is None:
                matched.unmatched += 1
                matched.example = matched.example or called
                continue
            kept = matched.samples.setdefault(name, [])
            kept += [text for text in texts if text not in kept][: MAX_TEXTS - len(kept)]
        return matched


def write_texts(folder: Path, texts: Mapping[str, list[str]]) -> None:
    """Write the texts, one per line, as `<sample>.txt` in tars in `folder`, atomically. Raises CannotWrite."""
    names = sorted(texts)
    with replacing_folder(folder) as temporary:
        for number, start in enumerate(range(0, len(names), SAMPLES_PER_SHARD)):
            some = names[start : start + SAMPLES_PER_SHARD]
            lines = ((name, {"txt": ("\n".join(texts[name]) + "\n").encode()}) for name in some)
            write_shard(temporary / f"shard-{number:05d}.tar", lines)


def _names(called: str) -> Iterator[str]:
    """Candidate sample names for a row's name: with fewer and fewer leading folders, and without the extension."""
    if not called or len(called) > MAX_NAME or called.startswith("/") or ".." in called.split("/"):
        return
    parts = [part for part in called.split("/") if part != "."]
    for start in range(len(parts)):
        name = "/".join(parts[start:])
        stem, dot, extension = name.rpartition(".")
        if dot and stem and "/" not in extension:
            yield stem
        yield name
    if called.isdecimal():  # an id of COCO, whose file names have twelve digits
        yield called.zfill(12)


def _texts(value: Any) -> list[str]:
    """The texts in a cell, each as one line; empty if there are none."""
    values = value if isinstance(value, list) else [value]
    lines = (" ".join(one[:MAX_TEXT].split()) for one in values[:MAX_TEXTS] if isinstance(one, str))
    return [line for line in lines if line]


def _other(row: Mapping[str, Any], key: str) -> bool:
    """Whether a row's cell holds anything other than texts."""
    value = row.get(key)
    values = value if isinstance(value, list) else [value]
    return any(one is not None and not isinstance(one, str) for one in values)


def _json_lines(path: Path) -> Iterator[Mapping[str, Any]]:
    with open(path, "rb") as file:
        for number, line in enumerate(_lines(file, path), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError:
                raise
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{shown(path)}: line {number} is not JSON: {error!s:.100}; correct it") from None
            if not isinstance(row, dict):
                raise ValueError(f'{shown(path)}: line {number} is not an object, such as {{"name": …}}; correct it')
            yield row


def _json(path: Path) -> Iterator[Mapping[str, Any]]:
    """The rows of a JSON document: a list of rows, COCO's `{"images": …, "annotations": …}`, or {sample: texts}."""
    if (size := path.stat().st_size) > MAX_JSON:
        raise ValueError(f"{shown(path)}: {size >> 20} MiB; at most {MAX_JSON >> 20} are read; use JSON lines")
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError:
        raise
    except (ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{shown(path)}: not JSON: {error!s:.100}; correct it") from None
    if isinstance(document, dict) and _rows_in(document.get("images")) and _rows_in(document.get("annotations")):
        check_coco_ids(path, document)
        files = {image.get("id"): image.get("file_name") for image in document["images"] if _plain(image.get("id"))}
        for row in document["annotations"]:
            image = row.get("image_id")
            yield {"file_name": files.get(image) if _plain(image) else None} | {
                key: value for key, value in row.items() if key not in ("id", "image_id", "file_name")
            }
    elif _rows_in(document):
        yield from document
    elif isinstance(document, dict) and document and all(map(_texts, document.values())):
        yield from ({"name": name, path.stem: texts} for name, texts in document.items())
    else:
        raise ValueError(f'{shown(path)}: no list of rows, such as [{{"name": …}}], and no COCO document')


def check_coco_ids(path: Path, document: Mapping[str, Any]) -> None:
    """Raise ValueError if two pictures or categories of COCO's JSON share an id or a name, or an object occurs twice,
    as in merged files: the association is then ambiguous. Ids of annotations are not used and may be missing."""
    for part, keys in _DISTINCT:
        first, rows = dict[str, int](), document.get(part)
        for number, row in enumerate(rows if _rows_in(rows) else ()):
            if all(key in row for key in keys[:3]):
                earlier = first.setdefault(repr([row.get(key) for key in keys]), number)
                if earlier < number:
                    given = f"{row[keys[0]]!r:.80}"
                    again = f"has the {keys[0]} of {part}[{earlier}], {given}; remove one, or give it another"
                    if len(keys) > 1:
                        again = f"is {part}[{earlier}] once more, of image_id {given}; remove one of them"
                    raise ValueError(f"{shown(path)}: {part}[{number}] {again}")


def _rows_in(value: Any) -> TypeGuard[list[dict[str, Any]]]:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _plain(key: Any) -> bool:
    return isinstance(key, (str, int))


def _separated(path: Path) -> Iterator[Mapping[str, Any]]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        head = file.readline(MAX_LINE)
        file.seek(0)
        delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;|\t", key=head.count)
        reader = csv.DictReader(_lines(file, path), delimiter=delimiter)
        with _naming_line(reader, path):
            for row in reader:
                yield {key: value for key, value in row.items() if isinstance(key, str)}


def csv_rows(text: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line, cells) of the rows of a CSV file with this text. Raises ValueError that names file and line."""
    reader = csv.reader(io.StringIO(text, newline=""))
    with _naming_line(reader, path):
        for row in reader:
            yield reader.line_num, row


@contextmanager
def _naming_line(reader: Any, path: Path) -> Iterator[None]:
    try:
        yield
    except csv.Error as error:
        raise ValueError(f"{shown(path)}: line {reader.line_num}: {error}; correct it") from None


def _lines(file: IO[AnyStr], path: Path) -> Iterator[AnyStr]:
    """The lines of a file. Raises ValueError for a line that is too long."""
    number = 0
    while line := file.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE:
            raise ValueError(f"{shown(path)}: line {number} is longer than {MAX_LINE >> 20} MiB; shorten it")
        yield line


_READERS = {".jsonl": _json_lines, ".ndjson": _json_lines, ".json": _json, ".csv": _separated, ".tsv": _separated}

"""Converts texts in tables next to the folders of a data set to readable folders.

In: a folder, and the plugins' answers about it. Out: the column of each table that a plugin reads, and on request a
folder per column, named after it, with the samples of the other folders.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fourm_engine.data.raw.names import is_litter, shown
from fourm_engine.data.raw.recognition import Recogniser
from fourm_engine.data.raw.tables import SUFFIXES, Table, write_texts
from fourm_engine.data.splits import SPLITS
from fourm_plugins.counting import counted

#: A folder with more such files has one file per sample rather than tables.
MOST_TABLES = 20
#: Formats of tables that are not read.
_OTHERS = (".parquet", ".xlsx")


@dataclass(frozen=True)
class TextFolder:
    """Columns of tables that `plugin` reads once they are written to `folder`."""

    plugin: str
    folder: Path
    columns: list[tuple[Table, str]]

    @property
    def unread(self) -> str:
        """A line about tables that have not been converted."""
        tables = ", ".join(f"{shown(table.path)} (column {shown(column)})" for table, column in self.columns)
        return (
            f"not read: {tables}: one file of many samples; to write their texts to {shown(self.folder)}, for "
            f"{self.plugin}, run this again with --unpack"
        )


def find_texts(root: Path, beside: Sequence[Path], recogniser: Recogniser) -> tuple[list[TextFolder], list[str]]:
    """The texts in tables in `root` or in a folder of `beside`, one entry per plugin, and a line for each table without
    texts."""
    folders, notes = dict[str, TextFolder](), list[str]()
    for path in (path for folder in (root, *beside) for path in _tables(folder)):
        if path.suffix.lower() in _OTHERS:
            notes.append(f"{shown(path)} is not read: export it as CSV or JSON lines, one row per sample")
            continue
        try:
            table = Table(path)
        except ValueError as error:
            if path.suffix.lower() != ".json":  # which may be anything
                notes.append(f"not read: {error}")
            continue
        named = [(column, plugin) for column in table.columns if (plugin := _reader(column, recogniser)) is not None]
        for column, plugin in named:
            folder = root / re.sub(r"\W+", "_", column.strip().lower())
            texts = folders.setdefault(plugin, TextFolder(plugin, folder, []))
            if all(other is not table for other, _ in texts.columns):
                texts.columns.append((table, column))
        if table.columns and not named and path.suffix.lower() != ".json":
            called = ", ".join(sorted(name for name, cls in recogniser.classes.items() if _reads_text(cls)))
            there = ", ".join(map(shown, table.columns[:8]))
            notes.append(f"{shown(path)} is not read: no column is named after a text modality ({called}): {there}")
    return list(folders.values()), notes


def unfold(texts: TextFolder, samples: frozenset[str]) -> str:
    """Write the folder, with the texts of `samples`. Returns a line about it. Raises ValueError if no row names one of
    them, and CannotWrite."""
    merged, rows, unmatched, example = dict[str, list[str]](), 0, 0, ""
    for table, column in texts.columns:
        some = table.texts(column, samples)
        rows, unmatched, example = rows + some.rows, unmatched + some.unmatched, example or some.example
        for name, lines in some.samples.items():
            merged.setdefault(name, []).extend(lines)
    tables = ", ".join(shown(table.path) for table, _ in texts.columns)
    if not merged:
        among = f"the samples are such as {shown(min(samples))!r}" if samples else "there are no files of samples"
        raise ValueError(f"{tables}: no row names a sample: they name such as {shown(example)!r}, and {among}")
    write_texts(texts.folder, merged)
    line = f"{tables}: texts of {counted(len(merged), 'sample')} written to {shown(texts.folder)}"
    return f"{line}; {unmatched:,} of {rows:,} rows name no sample, such as {shown(example)!r}" if unmatched else line


def _tables(folder: Path) -> list[Path]:
    tables = list[Path]()
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.lower().endswith((*SUFFIXES, *_OTHERS)) and Path(entry).is_file() and entry.name != SPLITS:
                tables.append(folder / entry.name)
            if len(tables) > MOST_TABLES:
                return []
    return sorted(path for path in tables if not is_litter(path.name))


def _reader(column: str, recogniser: Recogniser) -> str | None:
    """The text plugin that a column is named after."""
    readers = (name for name, cls in recogniser.classes.items() if _reads_text(cls))
    return next((name for name in readers if recogniser.named(name, column)), None)


def _reads_text(cls: type) -> bool:
    return "txt" in getattr(cls, "extensions", ())
